"""The parser of multipart forms: the library ``multipart`` (2.x), loaded when the first form needs it.

It has no types of its own; what is used of it is written down here.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from typing import Any, Final, Protocol, cast

from .errors import MissingExtraError

__all__ = ["Library", "PushParser", "Segment", "load_library"]

# Of the library's versions, the one that is written down here.
_MAJOR: Final = "2"
_NEEDED: Final = f"multipart forms need the package 'multipart' {_MAJOR}.x"


class Segment(Protocol):
    """The head of a part."""

    @property
    def name(self) -> str: ...
    @property
    def filename(self) -> str | None: ...
    @property
    def content_type(self) -> str | None: ...
    @property
    def charset(self) -> str | None: ...
    @property
    def headerlist(self) -> list[tuple[str, str]]: ...


class PushParser(Protocol):
    """Parses what it is given, and waits for no more."""

    def parse(self, chunk: bytes) -> Iterator[Segment | bytes | None]:
        """The events in a block: the head of a part, parts of its content, ``None`` at its end."""
        ...

    def close(self) -> None:
        """Raises if the last boundary has not come."""
        ...


class Library(Protocol):
    """The module."""

    MultipartError: type[Exception]
    ParserLimitReached: type[Exception]

    def PushMultipartParser(
        self,
        boundary: str,
        *,
        max_header_size: float,
        max_header_count: float,
        max_segment_size: float,
        max_segment_count: float,
        strict: bool,
    ) -> PushParser: ...


# The package in between replaces itself by the library before that is loaded: who else imports then has to wait.
_loading = threading.Lock()


def load_library() -> Library:
    """The library.

    Raises:
        MissingExtraError: It is not installed, or another package has its name.
    """
    module: Any = None
    with _loading:
        try:
            module = importlib.import_module("multipart")
        except ImportError as exc:
            raise MissingExtraError("forms", f"{_NEEDED}, which is not installed") from exc
        except Warning:
            pass  # that of the package in between, where warnings are errors
    version = str(getattr(module, "__version__", "unknown"))
    if not hasattr(module, "PushMultipartParser"):
        # python-multipart brings a package of this name that hands on the library, if that is there.
        raise MissingExtraError(
            "forms", f"{_NEEDED}; what is installed under this name is another package, as python-multipart brings one"
        )
    if version.partition(".")[0] != _MAJOR:
        raise MissingExtraError("forms", f"{_NEEDED}; {version} is installed")
    return cast("Library", module)
