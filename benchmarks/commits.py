"""Another state of the package, to be measured beside the present one."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .apart import ROOT


@contextmanager
def tree_of(commit: str) -> Iterator[tuple[str, Path]]:
    """A name for the commit, and a folder with its package and the benchmarks as they are now.

    Raises:
        SystemExit: There is no such commit, or this is no checkout.
    """
    try:
        name = git("describe", "--always", "--tags", commit).decode().strip()
        packed = git("archive", commit, "asgicore")
    except (OSError, subprocess.CalledProcessError) as exc:
        raise SystemExit(f"--against takes a commit of this checkout, and {commit!r} is none: {exc}") from exc
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        tree = Path(folder)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(tree, filter="data")
        shutil.copytree(
            ROOT / "benchmarks", tree / "benchmarks", ignore=shutil.ignore_patterns("results", "__pycache__")
        )
        yield f"at {name}", tree


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
