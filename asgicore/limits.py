"""The limits of a handler: what a client may cost before it is refused."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["DEFAULT_LIMITS", "Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Finite bounds for one request; the unit is in each name.

    ``None`` lifts a limit, and whoever lifts it leaves that bound to the server or a proxy.

    Raises:
        ValueError: A limit is negative, or no number.
    """

    max_body_bytes: int | None = 16 * 2**20
    """Size of the request body; above: 413. 16 MiB lets ordinary uploads pass (nginx allows 1 MiB,
    Quart and Hypercorn's WSGI side 16 MiB) and bounds what one request can write to disk."""

    spool_threshold_bytes: int = 2**20
    """A body up to this size stays in memory, a larger one goes to a temporary file. 1 MiB: most requests
    never touch the disk, and a thousand at once stay below a gigabyte."""

    body_timeout_seconds: float | None = 30.0
    """Longest wait for the next part of the body; above: 408. Half of the common proxy timeout of 60 s, so that
    the client gets our answer and not the proxy's."""

    max_body_seconds: float | None = None
    """Longest time that the whole body may take, from when it is first waited for; above: 408. Off: a large upload on
    a slow line is no attack, and the one before bounds each wait."""

    send_timeout_seconds: float | None = None
    """Longest wait for the server to take one message; above: the connection is aborted. Off: servers have
    write timeouts of their own, and a paused download is not an error."""

    close_timeout_seconds: float | None = 10.0
    """Longest time that closing a response's iterator may take, shielded from cancellation. 10 s is the grace
    period common process managers give."""

    max_headers: int | None = 128
    """Number of header fields; above: 431. Browsers send about 20, asgiref refuses 100 repeats of one name."""

    max_header_bytes: int | None = 64 * 2**10
    """Names and values of all header fields together; above: 431. Servers allow 16 to 64 KiB."""

    max_path_bytes: int | None = 16 * 2**10
    """Length of the path as UTF-8; above: 414. As long as h11's whole request head."""

    max_query_bytes: int | None = 64 * 2**10
    """Length of the query string; above: 414."""

    max_query_params: int | None = 1000
    """Number of query fields; above: 400. Django's default."""

    max_cookie_bytes: int | None = 16 * 2**10
    """Length of all ``cookie`` fields together; above: 431. RFC 6265bis section 5.5 lets one cookie have 4 KiB."""

    max_cookies: int | None = 256
    """Number of cookies; above: 431. RFC 6265 section 6.1 asks browsers for 50 a domain; they keep under 200."""

    max_form_fields: int | None = 1000
    """Number of fields of a form that are no files; above: 400. As for query fields."""

    max_form_files: int | None = 100
    """Number of files of a form; above: 400. Django's default."""

    max_form_field_bytes: int | None = 2**20
    """Size of one field of a form that is no file, and of what ``Part.read()`` returns; above: 413. Starlette's
    default: a long text fits."""

    max_form_memory_bytes: int | None = 2 * 2**20
    """All of a form that is in memory whatever its size: an urlencoded one, or of another one the fields together
    with the heads of all parts; above: 413. Django allows 2.5 MB, Werkzeug 500 kB."""

    max_part_headers: int | None = 8
    """Number of header fields of a part of a multipart form; above: 400. RFC 7578 section 4.8 leaves three in use."""

    max_part_header_bytes: int | None = 4 * 2**10
    """Length of one header field of a part; above: 413. File systems allow names of 255 characters, which are a
    kilobyte."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value: object = getattr(self, field.name)
            if value is None and field.name != "spool_threshold_bytes":
                continue
            wanted = (int, float) if field.name.endswith("_seconds") else (int,)
            if isinstance(value, bool) or not isinstance(value, wanted) or not value >= 0:
                kind = "a number of seconds" if field.name.endswith("_seconds") else "an integer"
                lifted = "" if field.name == "spool_threshold_bytes" else ", or None for no limit"
                raise ValueError(f"Limits.{field.name} takes {kind} of at least 0{lifted}; not {value!r}")


DEFAULT_LIMITS = Limits()
