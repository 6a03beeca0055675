"""Server-sent events: what an event is, and how it is written.

Source: WHATWG HTML Living Standard, section 9.2 "Server-sent events".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

__all__ = ["ServerSentEvent", "build_event", "build_message"]

# Section 9.2.5: a line ends with CR LF, LF or CR, and with nothing else that Python takes for the end of one.
_LINE_END: Final = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event of an ``asgicore.EventSourceResponse``.

    Args:
        data: The text, of any number of lines. What is no ``str`` is written as JSON. ``None``: the event carries none,
            and changes the ``id``, the ``retry`` or nothing at the client; its listeners are not called.
        event: The type, by which a client listens; ``"message"`` if ``None``.
        id: What the client sends back as ``Last-Event-ID`` when it reconnects; ``""`` makes it forget the last one.
        retry: How long the client waits before it reconnects, in milliseconds.
        comment: Text of any number of lines that clients ignore.

    Raises:
        ValueError: ``event`` or ``id`` holds a line end, ``id`` holds NUL, which clients ignore ids with, ``retry`` is
            negative, a type is given without data, or nothing is given at all.
        TypeError: A field is of another type.
    """

    data: Any = None
    _: KW_ONLY
    event: str | None = None
    id: str | None = None
    retry: int | None = None
    comment: str | None = None

    def __post_init__(self) -> None:
        # Events are many, and most are right: a call is made for what is wrong alone.
        event, id_, retry, comment = self.event, self.id, self.retry, self.comment
        if event is not None:
            if not isinstance(event, str) or "\n" in event or "\r" in event:
                raise _refused("event", event)
            if self.data is None:
                raise ValueError("an event without data reaches no listener, whatever its type; give it data=''")
        if id_ is not None and (not isinstance(id_, str) or "\n" in id_ or "\r" in id_ or "\0" in id_):
            raise _refused("id", id_)
        if retry is not None and (type(retry) is not int or retry < 0):
            raise _refused("retry", retry)
        if comment is not None:
            if not isinstance(comment, str):
                raise _refused("comment", comment)
        elif self.data is None and id_ is None and retry is None:
            raise ValueError("an event takes data, id, retry or comment, and got none; for the JSON null, data='null'")


def _refused(field: str, value: object) -> TypeError | ValueError:
    if field == "retry":
        kind = ValueError if type(value) is int else TypeError
        return kind(f"retry takes milliseconds, an integer from 0 on, not {value!r}")
    if not isinstance(value, str):
        return TypeError(f"{field} takes str, not {type(value).__name__}")
    if "\n" in value or "\r" in value:
        return ValueError(f"{field} takes a single line, not {value!r}")
    return ValueError(f"{field} takes text without NUL, with which clients ignore it, not {value!r}")


def build_event(event: ServerSentEvent, dumps: Callable[[Any], str]) -> bytes:
    """Write one event, with the blank line that ends it; ``dumps`` writes data that is no ``str`` as JSON.

    Raises:
        ValueError: A field holds what has no UTF-8 form, or ``dumps`` refuses the data.
        TypeError: ``dumps`` refuses the data.
    """
    text = "" if event.comment is None else _lines(": ", event.comment)
    if event.event is not None:
        text += f"event: {event.event}\n"
    if event.id is not None:
        text += f"id: {event.id}\n"
    if event.retry is not None:
        text += f"retry: {event.retry}\n"
    data = event.data
    if data is not None:
        if not isinstance(data, str):
            # A lone surrogate has no UTF-8 form, but JSON has an escape for it.
            data = dumps(data).encode(errors="backslashreplace").decode()
        text += _lines("data: ", data)
    return _encode(f"{text}\n")


def build_message(text: str) -> bytes:
    """Write an event that is data alone.

    Raises:
        ValueError: It holds what has no UTF-8 form.
    """
    return _encode(f"{_lines('data: ', text)}\n")


def _lines(prefix: str, text: str) -> str:
    if "\n" in text or "\r" in text:
        text = f"\n{prefix}".join(_LINE_END.split(text))
    return f"{prefix}{text}\n"


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(
            f"an event takes text, not the lone surrogate {text[exc.start]!r}: it has no UTF-8 form"
        ) from None
