"""What the lint holds messages against: every rule once, with its level and where it is written.

Source: ASGI specification 3.0, ASGI HTTP specification 2.5, ASGI Lifespan specification 2.0, ASGI extensions;
RFC 9110, RFC 9112, RFC 9113.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

__all__ = ["RULES", "Finding", "Level", "Party", "Rule"]

Level: TypeAlias = Literal["error", "warning", "note"]
"""``"error"``: not allowed. ``"warning"``: allowed, and not recommended. ``"note"``: allowed, and worth knowing."""

Party: TypeAlias = Literal["application", "server"]
"""Who did it."""

# Where rules are written. Those of the ASGI specifications go by version and heading.
CORE_SCOPE = 'ASGI 3.0, "Connection Scope"'
CORE_EVENTS = 'ASGI 3.0, "Events"'
CORE_OVERVIEW = 'ASGI 3.0, "Overview"'
CORE_PROTOCOLS = 'ASGI 3.0, "Protocol Specifications"'
CORE_ERRORS = 'ASGI 3.0, "Error Handling"'
CORE_EXTENSIONS = 'ASGI 3.0, "Extensions"'
HTTP_SCOPE = 'ASGI HTTP 2.5, "HTTP Connection Scope"'
REQUEST = 'ASGI HTTP 2.5, "Request - receive event"'
START = 'ASGI HTTP 2.5, "Response Start - send event"'
BODY = 'ASGI HTTP 2.5, "Response Body - send event"'
SEND_EXCEPTION = 'ASGI HTTP 2.5, "Disconnected Client - send exception"'
DISCONNECT = 'ASGI HTTP 2.5, "Disconnect - receive event"'
LIFESPAN = "ASGI Lifespan 2.0"
EARLY_HINTS = 'ASGI extensions, "Early Hints"'
PUSH = 'ASGI extensions, "HTTP/2 Server Push"'
PATH_SEND = 'ASGI extensions, "Path Send"'
ZERO_COPY = 'ASGI extensions, "Zero Copy Send"'
TRAILERS = 'ASGI extensions, "HTTP Trailers"'
DEBUG = 'ASGI extensions, "Debug"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A rule that was broken, once."""

    section: str
    """Where the rule is written."""
    message: str
    """What was seen."""
    rule: str
    """The name of the rule."""
    level: Level
    by: Party
    request: str = ""
    """Of which request: its method and path."""

    def __str__(self) -> str:
        about = f" [{self.request}]" if self.request else ""
        return f"{self.level} by the {self.by}: {self.message} ({self.rule}; {self.section}){about}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing that is not as it should be."""

    name: str
    by: Party
    level: Level
    section: str
    """Where the rule is written; what it says of a certain message is in the message's own section."""
    text: str
    """The rule itself, in a sentence."""

    def broken(self, message: str, request: str = "", section: str = "") -> Finding:
        """A finding of this rule."""
        return Finding(
            section=section or self.section,
            message=message,
            rule=self.name,
            level=self.level,
            by=self.by,
            request=request,
        )


def _app(name: str, level: Level, section: str, text: str) -> Rule:
    return Rule(name=name, by="application", level=level, section=section, text=text)


def _server(name: str, level: Level, section: str, text: str) -> Rule:
    return Rule(name=name, by="server", level=level, section=section, text=text)


_ALL = [
    # --- any message of the application
    _app("message-type", "error", CORE_EVENTS, "a message is a dict with a str as its type"),
    _app("message-unknown", "error", CORE_PROTOCOLS, "the type is one that the protocol or an offered extension has"),
    _app(
        "message-unjudged", "note", CORE_EXTENSIONS, "the type may belong to an extension that the lint does not know"
    ),
    _app("key-missing", "error", CORE_ERRORS, "a message has every key that its type requires"),
    _app("key-unknown", "warning", CORE_ERRORS, "other keys are ignored: one that is misspelt, too"),
    _app("value-type", "error", CORE_ERRORS, "values have the Python types of the specification"),
    _app("extension-not-offered", "error", CORE_EXTENSIONS, "an extension is used where the scope offers it"),
    # --- the order of a response
    _app("start-twice", "error", START, "a response starts once"),
    _app("before-start", "error", START, "http.response.start comes before what belongs to the body"),
    _app("after-end", "error", BODY, "nothing follows the message that ends the response: it would be ignored"),
    _app("no-response", "error", START, "an application that returns has answered, unless the client left"),
    _app("unfinished", "error", BODY, "a response that was started ends with a final message"),
    _app("raised", "note", CORE_ERRORS, "what an application raises reaches the server, which ends the connection"),
    _app(
        "send-after-disconnect",
        "warning",
        SEND_EXCEPTION,
        "nobody gets what is sent after the client has left; eight messages may have been on their way",
    ),
    _app("receive-after-disconnect", "warning", DISCONNECT, "http.disconnect is the last message"),
    _app("receive-concurrent", "warning", REQUEST, "one reader at a time: parts of a body have one order"),
    # --- the head
    _app("status-range", "error", "RFC 9110 section 15", "a status is a number from 100 to 599"),
    _app("status-interim", "warning", "RFC 9110 section 15.2", "1xx precedes a response, and is none"),
    _app("headers-type", "error", START, "headers are an iterable of pairs"),
    _app(
        "headers-once", "warning", CORE_EVENTS, "events hold lists; who looks into an iterator takes its content away"
    ),
    _app("header-type", "error", START, "a header is a pair of bytes"),
    _app("header-pseudo", "error", START, "pseudo headers are the server's"),
    _app("header-case", "error", START, "names are in lower case"),
    _app("header-name", "error", "RFC 9110 section 5.1", "a name is a token"),
    _app("header-value", "error", "RFC 9110 section 5.5", "a value holds no CR, LF, NUL or other control character"),
    _app("header-blank", "warning", "RFC 9110 section 5.5", "a value neither begins nor ends with a blank"),
    _app("header-repeated", "error", "RFC 9110 section 5.3", "a field that is no list stands in a message once"),
    _app("header-connection", "error", "RFC 9113 section 8.2.2", "HTTP/2 has no connection-specific fields"),
    _app("transfer-encoding", "warning", START, "the server ignores transfer-encoding, and must"),
    _app("length-malformed", "error", "RFC 9110 section 8.6", "content-length is one number of bytes"),
    _app("length-forbidden", "error", "RFC 9110 section 8.6", "1xx and 204 have no content-length"),
    _app("length-unknown", "note", "RFC 9110 section 8.6", "a body that is there as a whole can declare its length"),
    # --- the body
    _app("body-forbidden", "error", "RFC 9110 section 6.4.1", "HEAD, 1xx, 204 and 304 have no body"),
    _app("body-reset", "error", "RFC 9110 section 15.3.6", "205 has no body"),
    _app("length-mismatch", "error", "RFC 9110 section 8.6", "the body is as long as content-length declares"),
    # --- extensions
    _app("trailers-unannounced", "error", TRAILERS, "trailers are announced by the start"),
    _app("trailers-early", "error", TRAILERS, "trailers come after the last part of the body"),
    _app(
        "trailers-nowhere",
        "warning",
        "RFC 9110 section 6.5",
        "trailers need a body, and one of HTTP/1.1 that is sent in chunks, not by its length",
    ),
    _app(
        "trailer-forbidden", "error", "RFC 9110 section 6.5.1", "fields that are needed before the body are no trailers"
    ),
    _app("trailer-undeclared", "warning", "RFC 9110 section 6.6.2", "the field trailer names those that will come"),
    _app("hint-type", "error", EARLY_HINTS, "links are an iterable of bytes"),
    _app("hint-empty", "warning", EARLY_HINTS, "a hint without links says nothing"),
    _app("hint-late", "warning", "RFC 8297 section 2", "hints come before the start: servers refuse them after it"),
    _app("path-relative", "error", PATH_SEND, "the path of a file is absolute"),
    _app("path-missing", "error", PATH_SEND, "a path is that of a file"),
    _app("path-mixed", "error", PATH_SEND, "a path is sent once, and nothing else beside it"),
    _app("file-type", "error", ZERO_COPY, "the file has a descriptor of the operating system"),
    _app("file-range", "error", ZERO_COPY, "an offset is not negative, and a count is one byte or more"),
    _app("debug-order", "error", DEBUG, "debug information is sent once, before the start"),
    # --- lifespan
    _app("lifespan-order", "error", LIFESPAN, "each of startup and shutdown is answered once, when it was received"),
    _app("lifespan-unanswered", "error", LIFESPAN, "a server waits for the answer to startup and shutdown"),
    _app("lifespan-ignored", "warning", CORE_PROTOCOLS, "who does not know a protocol raises; who returns accepted it"),
    _app("lifespan-raised", "warning", LIFESPAN, "who has started, and cannot stop, sends shutdown.failed"),
    _app("lifespan-left", "warning", LIFESPAN, "the scope lasts until the shutdown"),
    # --- the scope
    _server("scope-type", "error", CORE_SCOPE, "the scope is a dict with a str as its type"),
    _server("scope-key-missing", "error", HTTP_SCOPE, "the scope has every key that is required"),
    _server("scope-value", "error", HTTP_SCOPE, "values have the types and the form of the specification"),
    _server("scope-headers-type", "error", HTTP_SCOPE, "headers are an iterable of pairs"),
    _server("scope-headers-once", "note", HTTP_SCOPE, "headers that can be read once are not looked into"),
    _server("scope-header-type", "error", HTTP_SCOPE, "a header is a pair of bytes"),
    _server("scope-header-pseudo", "error", HTTP_SCOPE, "pseudo headers are removed"),
    _server("scope-header-case", "note", HTTP_SCOPE, "names should be in lower case, and need not be"),
    _server("scope-header-name", "error", "RFC 9110 section 5.1", "a name is a token"),
    _server("scope-header-value", "error", "RFC 9110 section 5.5", "CR, LF and NUL are rejected or replaced"),
    _server("scope-header-blank", "warning", "RFC 9110 section 5.5", "blanks around a value are no part of it"),
    _server("scope-extensions", "error", CORE_EXTENSIONS, "extensions are dicts by name"),
    # --- the server's messages
    _server("event-type", "error", CORE_EVENTS, "a message is a dict with a str as its type"),
    _server("event-unknown", "error", CORE_PROTOCOLS, "the type is one that the protocol has"),
    _server("event-key-missing", "error", CORE_ERRORS, "a message has every key that its type requires"),
    _server("event-key-unknown", "warning", CORE_ERRORS, "other keys are ignored: one that is misspelt, too"),
    _server("event-value", "error", CORE_ERRORS, "values have the Python types of the specification"),
    _server("request-after-end", "error", REQUEST, "nothing of the body follows its last part"),
    _server("event-after-disconnect", "error", DISCONNECT, "after a disconnect there is nothing but a disconnect"),
    _server("request-length", "error", "RFC 9112 section 6.3", "the body is as long as content-length declares"),
    _server("lifespan-event-order", "error", LIFESPAN, "startup comes once, then shutdown, after startup was answered"),
]

RULES: Final = {rule.name: rule for rule in _ALL}
"""Every rule of the lint by its name."""
