"""A client of server-sent events, written after the standard: what a browser makes of a stream, however it is cut.

Source: WHATWG HTML Living Standard, sections 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an event stream".
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from dataclasses import dataclass


@dataclass(frozen=True)
class Received:
    """What a listener is called with."""

    data: str
    kind: str
    last_event_id: str


class EventSource:
    """Takes the bytes of a stream in parts of any size."""

    def __init__(self) -> None:
        self.events: list[Received] = []
        self.comments: list[str] = []
        self.last_event_id = ""
        """What the client sends when it reconnects."""
        self.retry: int | None = None
        """The reconnection time, in milliseconds."""
        # "Streams must be decoded using the UTF-8 decode algorithm", which takes one byte order mark away.
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")
        self._is_first = True
        self._has_cr = False
        self._line = ""
        self._data = ""
        self._kind = ""
        self._id = ""

    def feed(self, part: bytes) -> None:
        for character in self._decoder.decode(part):
            if self._is_first:
                self._is_first = False
                if character == "\ufeff":
                    continue
            if character == "\n" and self._has_cr:
                self._has_cr = False  # the second half of CR LF
                continue
            self._has_cr = character == "\r"
            if character in "\r\n":
                line, self._line = self._line, ""
                self._take(line)
            else:
                self._line += character

    def _take(self, line: str) -> None:
        if not line:
            self._dispatch()
        elif line.startswith(":"):
            self.comments.append(line[1:])
        elif ":" in line:
            field, _, value = line.partition(":")
            self._process(field, value.removeprefix(" "))
        else:
            self._process(line, "")

    def _process(self, field: str, value: str) -> None:
        if field == "event":
            self._kind = value
        elif field == "data":
            self._data += value + "\n"
        elif field == "id":
            if "\0" not in value:
                self._id = value
        elif field == "retry" and value and all(character in "0123456789" for character in value):
            self.retry = int(value)

    def _dispatch(self) -> None:
        self.last_event_id = self._id
        data, self._data = self._data, ""
        kind, self._kind = self._kind, ""
        if data:
            self.events.append(Received(data.removesuffix("\n"), kind or "message", self.last_event_id))


def read(*parts: bytes) -> EventSource:
    """What a client has when it got these parts."""
    source = EventSource()
    for part in parts:
        source.feed(part)
    return source
