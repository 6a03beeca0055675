"""The types that users see, as mypy and pyright read them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SAMPLES = Path(__file__).parent / "typing_samples.py"
LIBRARIES = ["asgiref", "httpx", "hypercorn", "litestar", "starlette", "trio", "uvicorn"]
CHECKERS = {
    "mypy": ["mypy", "--strict", "--config-file", "pyproject.toml", str(SAMPLES)],
    "pyright": ["pyright", "--pythonpath", sys.executable, str(SAMPLES)],
}


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", CHECKERS)
def test_typing_samples_under_checker_have_no_error(checker: str) -> None:
    """A Handler fits servers, clients and frameworks, and the accessors have their types."""
    missing = [name for name in [checker, *LIBRARIES] if not is_installed(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    done = subprocess.run(
        [sys.executable, "-m", *CHECKERS[checker]], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
