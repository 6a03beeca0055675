"""Responses whose body is a file on disk: whole or in parts, or nothing of it where the client has it already.

Source: RFC 9110 sections 8.8 (validators), 13 (conditional requests), 14 (ranges), 15.3.7 (206); RFC 6266
(content-disposition).
"""

from __future__ import annotations

import os
from os import urandom
from time import time
from typing import Any, Final, Literal, Self

from ._conditions import build_etag, check_etag, evaluate, if_range_holds
from ._dates import build_http_date, parse_http_date
from ._disk import FileBlocks, find_under, is_missing, open_real, open_regular
from ._disposition import build_disposition
from ._extensions import PATHSEND, ZEROCOPYSEND
from ._headers import find
from ._media_types import media_type_of
from ._paths import split_untrusted
from ._ranges import Part, Segment, build_content_range, build_multipart, requested_ranges
from ._response import Background, Extras, Response, build_fields, check_status
from ._spool import in_file_thread
from ._streaming_response import StreamingResponse
from .errors import HTTPError, InvalidHeaderError, ResponseStateError
from .types import HeadersInput, RawHeaders, Scope

__all__ = ["FileResponse"]

# RFC 9110 section 8.8.1: a validator is strong if it changes with every change. A file that is written twice within
# what its clock tells apart keeps its time; FAT has the coarsest clock, of two seconds.
_SETTLED_SECONDS: Final = 2


class FileResponse(StreamingResponse):
    """A file on disk, opened when the response is sent, read in worker threads in blocks of 1 MiB.

    A GET or HEAD that is conditional on the file's tag or date is answered with 304 or 412, a GET of ranges with 206
    or 416. Servers that can send files by themselves are told to.

    Args:
        path: Of a regular file. Never what a client sent: ``under()`` is for that.
        status_code: As for ``Response``. Validators, conditions and ranges are for 200 alone.
        headers: As for ``Response``; the length is that of the file.
        content_type: As for ``Response``; if ``None`` it follows from the ending of ``filename``, or of ``path``.
        filename: What the client is to call the file; any text without controls. Its last part counts.
        disposition: Whether the client is to show or to save it; ``"attachment"`` if there is a ``filename``,
            else nothing is said.
        etag: The entity tag with its quotes. ``True``: made of size, time and number of the file; weak for two
            seconds after a change. ``False``: none.
        missing_is_404: Whether a path that is missing, unreadable or no regular file is a 404, and not an error.
        background: As for ``Response``.

    Raises:
        InvalidHeaderError: A field, tag or file name must not leave.
        ValueError: The status is no status, or ``disposition`` is neither of the two words.
        TypeError: ``path`` is no path, or ``background`` no callable.

    When it is sent, ``OSError`` if the file is missing, unreadable or no regular file, which is answered with 500;
    ``ContentLengthError`` if it gets shorter meanwhile, which aborts the response. What it grows by is not sent.
    """

    __slots__ = ("_blocks", "_is_prepared", "_location", "_makes_etag", "_missing_is_404", "_names")

    def __init__(
        self,
        path: str | os.PathLike[str],
        status_code: int = 200,
        headers: HeadersInput | None = None,
        content_type: str | None = None,
        *,
        filename: str | None = None,
        disposition: Literal["inline", "attachment"] | None = None,
        etag: str | bool = True,
        missing_is_404: bool = False,
        background: Background | None = None,
    ) -> None:
        self._location = os.fsdecode(path)
        self._names: list[str] | None = None
        self._missing_is_404 = missing_is_404
        self._is_prepared = False
        self._blocks = FileBlocks()
        self._set_content(self._blocks)
        self._extras: Extras | None = Extras(background)
        self.status_code: int = check_status(status_code)
        self._headers = None
        raw = build_fields(headers, content_type, media_type_of(self._location if filename is None else filename))
        _refuse_length(raw)
        if filename is not None or disposition is not None:
            raw = [field for field in raw if field[0] != b"content-disposition"]
            value = build_disposition("attachment" if disposition is None else disposition, filename)
            raw.append((b"content-disposition", value.encode("ascii")))
        self._makes_etag = etag is True
        if isinstance(etag, str):
            raw = [field for field in raw if field[0] != b"etag"]
            raw.append((b"etag", check_etag(etag).encode("latin-1")))
        self._raw = raw

    @classmethod
    def under(
        cls,
        root: str | os.PathLike[str],
        untrusted_path: str,
        status_code: int = 200,
        headers: HeadersInput | None = None,
        content_type: str | None = None,
        *,
        filename: str | None = None,
        disposition: Literal["inline", "attachment"] | None = None,
        etag: str | bool = True,
        background: Background | None = None,
    ) -> Self:
        """A file below a directory, by a path that a client sent.

        Whatever is not a regular file within ``root`` is a 404. Symbolic links are followed as long as they stay
        within.

        Args:
            root: The directory.
            untrusted_path: Relative, with ``/`` between the names. Names that only Windows takes for devices, drives
                or streams are refused on every system, and so are ``.``, ``..``, empty names, controls and what ends
                with a dot or a blank.
            status_code: As for ``FileResponse``, and so are all that follow.
            headers: As for ``Response``.
            content_type: If ``None``, it follows from the ending of ``filename``, or of ``untrusted_path``.
            filename: What the client is to call the file.
            disposition: Whether the client is to show or to save it.
            etag: The entity tag, or whether there is one.
            background: As for ``Response``.

        Raises:
            HTTPError: 404: the path leads elsewhere.
            OSError: ``root`` is missing; when the response is sent.
        """
        names = split_untrusted(untrusted_path)
        if names is None:
            raise HTTPError(404)
        response = cls(
            os.path.join(os.fsdecode(root), *names),
            status_code,
            headers,
            content_type,
            filename=filename,
            disposition=disposition,
            etag=etag,
            missing_is_404=True,
            background=background,
        )
        response._location = os.fsdecode(root)
        response._names = names
        return response

    async def prepare(self, scope: Scope) -> Response:
        """Open the file, and fit the response to it and to the request; see ``Response.prepare()``.

        Raises:
            HTTPError: 404, 412 or 416.
            OSError: There is no such file to be sent.
            ResponseStateError: The response was sent before.
        """
        # Not asked of the content, which a server that sends the file by itself leaves where it is.
        if self._is_prepared or self._content is None:
            raise ResponseStateError("a file response can be sent once; build a new one for each request")
        self._is_prepared = True
        return await in_file_thread(self._blocks.hold, self._fit, scope)

    def close_nowait(self) -> None:
        """As ``aclose()``, as far as it goes without waiting: the event loop has given the request up."""
        self._blocks.stop()

    # --- in a worker thread --------------------------------------------------------------------------

    def _fit(self, scope: Scope) -> Response:
        is_sent = False
        try:
            response = self._fit_to(scope, self._open())
            is_sent = response is self
            return response
        finally:
            if not is_sent:
                self._blocks.close()

    def _open(self) -> os.stat_result:
        # Where the directory is missing, it is not the client who is mistaken.
        root = None if self._names is None else os.path.realpath(self._location, strict=True)
        try:
            if root is None or self._names is None:
                path = os.path.abspath(self._location)
                self._blocks.file, status = open_regular(path)
            else:
                path = find_under(root, self._names)
                self._blocks.file, status = open_real(root, path)
        except (OSError, ValueError) as exc:
            if is_missing(exc):
                if self._missing_is_404:
                    raise HTTPError(404) from exc
                exc.add_note("FileResponse(path, missing_is_404=True) answers 404 instead.")
            raise
        self.path = path
        return status

    def _fit_to(self, scope: Scope, status: os.stat_result) -> Response:
        parts: list[Part] | None = None
        raw = self.raw_headers()
        _refuse_length(raw)
        self._headers, self._raw = None, raw
        size = status.st_size
        method, fields = scope.get("method"), scope.get("headers") or ()
        if self.status_code == 200:
            etag, modified, is_strong = self._add_validators(raw, status)
            if method in ("GET", "HEAD"):
                verdict = evaluate(method, fields, etag, modified)
                if verdict == 412:
                    raise HTTPError(412)
                if verdict == 304:
                    return self._not_modified()
            if find(raw, b"accept-ranges") is None:
                raw.append((b"accept-ranges", b"bytes"))
            if (
                method == "GET"
                and find(fields, b"range") is not None
                and find(raw, b"accept-ranges") == b"bytes"
                and if_range_holds(fields, etag, modified if is_strong else None)
            ):
                parts = requested_ranges(fields, size)
                if parts is not None and len(parts) > 1 and find(raw, b"content-encoding") is not None:
                    parts = None  # what holds the parts is not encoded, and the field would say that it is
        return self._fill(self._choose(parts, size), scope)

    def _add_validators(self, raw: RawHeaders, status: os.stat_result) -> tuple[str | None, int | None, bool]:
        """Add tag and date, where they are not set, and return both, and whether the date is a strong validator."""
        now = time()
        is_settled = now - status.st_mtime >= _SETTLED_SECONDS
        # RFC 9110 section 8.8.1: what a compressed representation has, too, is weak.
        is_strong = is_settled and not (self._extras is not None and self._extras.is_compressible)
        given = find(raw, b"etag")
        etag = None if given is None else given.decode("latin-1")
        if etag is None and self._makes_etag:
            etag = build_etag(f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}", weak=not is_settled)
            raw.append((b"etag", etag.encode("ascii")))
        given = find(raw, b"last-modified")
        if given is not None:
            return etag, parse_http_date(given), is_strong
        # RFC 9110 section 8.8.2.1: never later than the date of the answer.
        modified = min(status.st_mtime_ns // 10**9, int(now))
        raw.append((b"last-modified", build_http_date(modified).encode("ascii")))
        return etag, modified, is_strong

    def _choose(self, parts: list[Part] | None, size: int) -> list[Segment]:
        """The pieces of the body, and the status and the fields that belong to them."""
        raw = self._raw
        if parts is None:
            raw.append((b"content-length", b"%d" % size))
            return [(0, size)] if size else []
        if not parts:
            raise HTTPError(416, headers={"content-range": build_content_range(None, size).decode("ascii")})
        self.path = None
        self.status_code = 206
        if len(parts) == 1:
            raw += [
                (b"content-range", build_content_range(parts[0], size)),
                (b"content-length", b"%d" % parts[0][1]),
            ]
            return [parts[0]]
        # Chance alone keeps it out of the parts: 128 bits that nobody knows when the file is written.
        boundary = urandom(16).hex().encode("ascii")
        segments = build_multipart(parts, size, find(raw, b"content-type"), boundary)
        length = sum(len(piece) if isinstance(piece, bytes) else piece[1] for piece in segments)
        self._raw = [field for field in raw if field[0] != b"content-type"]
        self._raw += [
            (b"content-type", b"multipart/byteranges; boundary=" + boundary),
            (b"content-length", b"%d" % length),
        ]
        return segments

    def _fill(self, segments: list[Segment], scope: Scope) -> Response:
        """Begin with the body, where it is to be read here; a small one goes out as a whole."""
        offered = scope.get("extensions") or ()
        is_sent_by_server = (self.path is not None and PATHSEND in offered) or ZEROCOPYSEND in offered
        is_read_at_once = scope.get("method") != "HEAD" and not is_sent_by_server
        self._blocks.begin(segments, reads=is_read_at_once)
        if not is_read_at_once:
            self.file: Any = self._blocks.file
            self.segments: list[Segment] | None = segments
        elif (body := self._blocks.whole()) is not None:
            response = Response.prepared(body, self.status_code, self.raw_headers())
            response._extras = self._extras
            return response
        return self


def _refuse_length(raw: RawHeaders) -> None:
    for name, _ in raw:
        if name in (b"content-length", b"content-range"):
            raise InvalidHeaderError(name.decode("ascii"), "follows from the file and the request; leave it out")
