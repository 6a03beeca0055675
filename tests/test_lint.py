"""asgicore.testing._lint.lint: what is legal passes, what is not is found, and nothing is changed."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from asgicore import Handler, Request, Response
from asgicore.testing import (
    DISCONNECT,
    EMPTY,
    Channel,
    Finding,
    LintError,
    LintWarning,
    Message,
    body_messages,
    http_scope,
    lint,
)
from asgicore.testing._lint.rules import RULES

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]}
BODY: Message = {"type": "http.response.body", "body": b"hello", "more_body": False}
ALL_EXTENSIONS: dict[str, Any] = {
    f"http.response.{name}": {} for name in ("early_hint", "trailers", "pathsend", "zerocopysend", "push", "debug")
}
CLOSED = tempfile.TemporaryFile()
CLOSED.close()
LIFESPAN: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}


@dataclass
class Talk:
    """What a server and an application say to each other: (who, message), in order."""

    lines: list[tuple[str, Any]]
    scope: dict[str, Any] = field(default_factory=http_scope)
    error: BaseException | None = None
    """What the application raises in the end."""

    def findings(self) -> list[Finding]:
        found: list[Finding] = []
        with_lint = lint(self._app, collect=found)
        passed: list[Any] = []
        given = iter([message for who, message in self.lines if who == "server"])

        async def receive() -> Any:
            return next(given)

        async def send(message: Any) -> None:
            if isinstance(message, OSError):
                raise message
            passed.append(message)

        try:
            drive(with_lint(self.scope, receive, send))
        except Exception as exc:
            raised: Exception | None = exc
        else:
            raised = None
        assert raised is self.error
        assert [id(message) for message in passed] == [id(message) for who, message in self.lines if who == "app"]
        return found

    def rules(self, *levels: str) -> list[str]:
        return [one.rule for one in self.findings() if one.level in (levels or ("error", "warning", "note"))]

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope is self.scope
        for who, message in self.lines:
            if who == "app":
                await send(message)
            else:
                assert (await receive()) is message
        if self.error is not None:
            raise self.error


def drive(coro: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never suspends."""
    try:
        coro.send(None)
    except StopIteration:
        return
    raise AssertionError("it suspended")


def talk(*sent: Message, received: Any = (EMPTY,), error: BaseException | None = None, **scope: Any) -> Talk:
    """The application receives all that there is, and then sends."""
    lines = [*(("server", message) for message in received), *(("app", message) for message in sent)]
    return Talk(lines, http_scope(**scope), error)


def start(*headers: Any, status: Any = 200, **keys: Any) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **keys}


def body(part: Any = b"", more: Any = False, **keys: Any) -> Message:
    return {"type": "http.response.body", "body": part, "more_body": more, **keys}


def trailers(*headers: Any, **keys: Any) -> Message:
    return {"type": "http.response.trailers", "headers": list(headers), **keys}


def extended(*names: str) -> dict[str, Any]:
    return {f"http.response.{name}": {} for name in names}


# --- what is legal passes --------------------------------------------------------------------------------

names = st.from_regex(rb"[a-z][a-z0-9!#$%&'*+.^_`|~-]{0,8}", fullmatch=True).filter(
    lambda name: name not in (b"age", b"date", b"etag", b"server", b"location", b"expires", b"upgrade", b"trailer")
)
values = st.binary(max_size=8).map(
    lambda value: bytes(byte for byte in value if (byte >= 0x20 and byte != 0x7F) or byte == 9).strip(b" \t")
)
sequences = st.sampled_from([list, tuple])


@st.composite
def header_fields(draw: st.DrawFn) -> list[tuple[bytes, bytes]]:
    pairs = st.tuples(names, values).flatmap(lambda pair: st.sampled_from([pair, list(pair)]))
    fields = draw(st.lists(pairs, max_size=3))
    if draw(st.booleans()):
        fields += [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    return fields  # type: ignore[return-value]


@st.composite
def scopes(draw: st.DrawFn) -> dict[str, Any]:
    """What servers may give."""
    changes: dict[str, Any] = {
        "method": draw(st.sampled_from(["GET", "HEAD", "POST", "PURGE"])),
        "http_version": draw(st.sampled_from(["1.0", "1.1", "2", "3"])),
        "client": draw(st.sampled_from([..., None, ("::1", 1), ["10.0.0.1", 65535]])),
        "server": draw(st.sampled_from([..., None, ("/run/sock", None), ["localhost", 80]])),
        "root_path": draw(st.sampled_from([..., "", "/root"])),
        "raw_path": draw(st.sampled_from([..., None, b"/%ff"])),
        "scheme": draw(st.sampled_from([..., "https"])),
        "state": draw(st.sampled_from([..., {}, {"pool": object()}])),
        "extensions": draw(st.sampled_from([..., {}, ALL_EXTENSIONS])),
        "asgi": draw(st.sampled_from([{"version": "3.0"}, {"version": "3.0", "spec_version": "2.5"}])),
        "headers": draw(sequences)(draw(header_fields())),
        "of_middleware": object(),
    }
    return http_scope(**changes)


@st.composite
def talks(draw: st.DrawFn) -> Talk:
    """A legal exchange, whole or cut short by the client."""
    scope = draw(scopes())
    offered = scope.get("extensions", {})
    upload = draw(st.lists(st.binary(max_size=4), min_size=1, max_size=3))
    received: list[Message] = body_messages(*upload)
    for message in received:
        # Keys that may be left out.
        for key, default in (("body", b""), ("more_body", False)):
            if message[key] == default and draw(st.booleans()):
                del message[key]
    if draw(st.booleans()):
        scope["headers"] = [*scope["headers"], (b"content-length", b"%d" % sum(map(len, upload)))]

    status: Any = draw(st.sampled_from([200, HTTPStatus.CREATED, 204, 205, 304, 404, 599]))
    silent = scope["method"] == "HEAD" or status in (204, 205, 304)
    parts = [b""] if silent else draw(st.lists(st.binary(max_size=4), min_size=1, max_size=3))
    headers: list[Any] = draw(header_fields())
    has_length = status != 204 and draw(st.booleans())
    if has_length:
        size = sum(map(len, parts)) if not silent or status == 205 else 7
        headers.append((b"content-length", b"%d" % size))
    head = start(*headers, status=status)
    head["headers"] = draw(sequences)(head["headers"])
    sent: list[Message] = []
    hints: list[Message] = []
    if offered and draw(st.booleans()):
        hints = [{"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]}]
    if offered and draw(st.booleans()):
        sent.append({"type": "http.response.debug", "info": {"template": "index"}})
    is_chunked = scope["http_version"] in ("2", "3") or not has_length
    is_trailing = bool(offered) and not silent and is_chunked and draw(st.booleans())
    if is_trailing:
        head["headers"] = [(b"trailer", b"Digest, server-timing"), *head["headers"]]
        head["trailers"] = True
    sent += [*hints, head]
    sent += [body(part, index < len(parts) - 1) for index, part in enumerate(parts)]
    if draw(st.booleans()):
        for message in sent:
            if message.get("more_body") is False:
                del message["more_body"]
    if is_trailing:
        more = draw(st.booleans())
        sent.append(trailers((b"digest", b"1"), more_trailers=more))
        if more:
            sent.append(trailers((b"server-timing", b"db")))

    lines = [*(("server", one) for one in received), *(("app", one) for one in sent)]
    error: BaseException | None = None
    fate = draw(st.sampled_from(["ends", "ends", "leaves", "raises"]))
    if fate == "leaves":
        lines = [*lines[: draw(st.integers(0, len(lines)))], ("server", DISCONNECT)]
    elif fate == "raises":
        lines = lines[: draw(st.integers(0, len(lines)))]
        error = RuntimeError("of the application")
    elif draw(st.booleans()):
        lines.append(("server", DISCONNECT))
    return Talk(lines, scope, error)


@given(talks())
def test_legal_exchange_passes(legal: Talk) -> None:
    """Whatever the specification allows gives neither error nor warning; notes tell of what was raised."""
    assert legal.rules("error", "warning") == []


def test_file_sent_by_descriptor_and_by_path_passes(tmp_path: Path) -> None:
    """Extensions that hand a file over, mixed with parts where that is allowed."""
    with tempfile.TemporaryFile() as file:
        segments = [
            start((b"content-length", b"9"), (b"content-type", b"a/b")),
            body(b"ab", True),
            {"type": "http.response.zerocopysend", "file": file, "offset": 0, "count": 3, "more_body": True},
            body(b"abcd"),
        ]
        assert talk(*segments, extensions=ALL_EXTENSIONS).rules() == []
        to_its_end: Message = {"type": "http.response.zerocopysend", "file": file.fileno()}
        assert talk(start((b"content-length", b"9")), to_its_end, extensions=ALL_EXTENSIONS).rules() == []
    (tmp_path / "file").write_bytes(b"nine here")
    whole: Message = {"type": "http.response.pathsend", "path": str(tmp_path / "file")}
    assert talk(start((b"content-length", b"9")), whole, extensions=ALL_EXTENSIONS).rules() == []
    push: Message = {"type": "http.response.push", "path": "/style.css", "headers": [(b"accept", b"*/*")]}
    assert talk(start(), push, body(), extensions=ALL_EXTENSIONS, http_version="2").rules() == []


def test_trailers_in_several_messages_pass() -> None:
    """Announced by the start, named by the field, after the last part."""
    head = start((b"trailer", b"Digest, server-timing"), trailers=True)
    fields = trailers((b"digest", b"1"), more_trailers=True), trailers((b"server-timing", b"db"))
    assert talk(head, body(b"a"), *fields, extensions=ALL_EXTENSIONS).rules("error", "warning") == []


def test_request_whose_coding_tells_its_length_passes() -> None:
    """transfer-encoding overrides content-length (RFC 9112 section 6.3)."""
    headers = [(b"transfer-encoding", b"chunked"), (b"content-length", b"9")]
    assert talk(START, BODY, received=body_messages(b"a"), headers=headers).rules() == []


def test_messages_that_were_on_their_way_when_the_client_left_pass() -> None:
    """Who waits for the disconnect beside sending needs some turns to stop."""
    assert Talk([("app", start()), ("server", DISCONNECT), *([("app", body(b"x", True))] * 8)]).rules() == []


def test_sequence_after_failed_send_passes() -> None:
    """Where send() raised, an application owes nothing more, and may raise what it got."""
    gone = OSError("the peer is gone")

    def cut(*after: Message, error: Exception | None) -> list[Finding]:
        exchange = Talk([("server", EMPTY), ("app", START), ("app", gone), *(("app", one) for one in after)])
        found: list[Finding] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for who, message in exchange.lines:
                if who == "server":
                    await receive()
                else:
                    with suppress(OSError):
                        await send(BODY if message is gone else message)
            if error is not None:
                raise error

        async def send(message: Any) -> None:
            if message is BODY:
                raise gone

        async def receive() -> Any:
            return EMPTY

        with suppress(OSError):
            drive(lint(app, collect=found)(exchange.scope, receive, send))
        return found

    assert cut(error=None) == []
    assert cut(error=gone) == []
    assert [one.rule for one in cut(START, error=None)] == ["send-after-disconnect"]


# --- what is not is found --------------------------------------------------------------------------------

MUTATIONS: list[tuple[str, str, Talk]] = [
    ("message-type", "list", talk(["http.response.start"])),  # type: ignore[arg-type]
    ("message-type", "without", talk({"status": 200})),
    ("message-type", "bytes", talk({"type": b"http.response.start", "status": 200})),
    ("message-unknown", "misspelt", talk(START, {"type": "http.response.bdy"}, BODY)),
    ("message-unknown", "of-websockets", talk(START, {"type": "websocket.close"}, BODY)),
    ("message-unjudged", "of-server", talk(START, {"type": "http.fullflush"}, BODY, extensions={"fullflush": {}})),
    ("key-missing", "status", talk({"type": "http.response.start"}, body())),
    ("key-unknown", "more_bdy", talk(START, body(b"hello", more_bdy=True))),
    ("value-type", "status-text", talk(start(status="200"), body())),
    ("value-type", "status-bool", talk(start(status=True), body())),
    ("value-type", "body-text", talk(start(), body("hello"))),
    ("value-type", "body-none", talk(start(), body(None))),
    ("value-type", "body-bytearray", talk(start(), body(bytearray(b"hello")))),
    ("value-type", "more-none", talk(START, body(b"hello", None))),
    ("value-type", "more-number", talk(START, body(b"hello", 0))),
    ("value-type", "trailers-none", talk(start(trailers=None), body())),
    ("extension-not-offered", "hint", talk({"type": "http.response.early_hint", "links": [b"a"]}, START, BODY)),
    ("extension-not-offered", "trailers", talk(start(trailers=True), body(), trailers())),
    ("extension-not-offered", "path", talk(start(), {"type": "http.response.pathsend", "path": __file__})),
    ("start-twice", "at-once", talk(START, START, BODY)),
    ("start-twice", "after-body", talk(start(), body(b"a", True), START)),
    ("start-twice", "after-end", talk(START, BODY, START)),
    ("before-start", "body", talk(BODY, START, BODY)),
    ("before-start", "file", talk({"type": "http.response.zerocopysend", "file": 1}, extensions=ALL_EXTENSIONS)),
    ("before-start", "path", talk({"type": "http.response.pathsend", "path": "/a"}, extensions=ALL_EXTENSIONS)),
    (
        "before-start",
        "push",
        talk({"type": "http.response.push", "path": "/", "headers": []}, extensions=ALL_EXTENSIONS),
    ),
    ("after-end", "body", talk(START, BODY, body())),
    ("after-end", "between", talk(start(), body(b"a"), body(b"b"))),
    (
        "after-end",
        "hint",
        talk(START, BODY, {"type": "http.response.early_hint", "links": [b"a"]}, extensions=ALL_EXTENSIONS),
    ),
    ("after-end", "trailers", talk(START, BODY, trailers(), extensions=ALL_EXTENSIONS)),
    ("no-response", "nothing", talk()),
    ("no-response", "nothing-read", talk(received=())),
    ("unfinished", "start-alone", talk(start())),
    ("unfinished", "more", talk(start(), body(b"a", True))),
    ("unfinished", "trailers", talk(start(trailers=True), body(), extensions=ALL_EXTENSIONS)),
    ("raised", "before", talk(error=KeyError())),
    ("raised", "midway", talk(START, error=KeyError())),
    ("raised", "after", talk(START, BODY, error=KeyError())),
    ("send-after-disconnect", "start", talk(start(), *([body(b"x", True)] * 8), received=(DISCONNECT,))),
    (
        "send-after-disconnect",
        "body",
        Talk([("app", start()), ("server", DISCONNECT), *([("app", body(b"x", True))] * 9)]),
    ),
    ("receive-after-disconnect", "again", talk(received=(DISCONNECT, DISCONNECT))),
    ("status-range", "99", talk(start(status=99), body())),
    ("status-range", "600", talk(start(status=600), body())),
    ("status-interim", "103", talk(start(status=103), body())),
    ("headers-type", "none", talk({**START, "headers": None}, BODY)),
    ("headers-type", "text", talk({**START, "headers": "a: b"}, BODY)),
    ("headers-once", "iterator", talk({**START, "headers": iter([(b"a", b"b")])}, BODY)),
    ("headers-once", "pair", talk(start(iter((b"a", b"b"))), BODY)),
    (
        "headers-once",
        "links",
        talk({"type": "http.response.early_hint", "links": iter([b"a"])}, START, BODY, extensions=ALL_EXTENSIONS),
    ),
    ("header-type", "text", talk(start(("a", "b")), body())),
    ("header-type", "value-none", talk(start((b"a", None)), body())),
    ("header-type", "value-number", talk(start((b"content-length", 5)), body(b"hello", True), body())),
    ("header-type", "single", talk(start((b"a",)), body())),
    ("header-type", "mapping", talk({**START, "headers": {b"ab": b"c"}}, body())),
    ("header-pseudo", "status", talk(start((b":status", b"200")), body())),
    ("header-case", "upper", talk(start((b"Content-Type", b"a/b")), body())),
    ("header-name", "space", talk(start((b"a b", b"c")), body())),
    ("header-name", "colon", talk(start((b"a:", b"c")), body())),
    ("header-name", "empty", talk(start((b"", b"c")), body())),
    ("header-name", "line", talk(start((b"a\r\nb", b"c")), body())),
    ("header-value", "cr-lf", talk(start((b"location", b"/\r\nset-cookie: a=1")), body())),
    ("header-value", "nul", talk(start((b"a", b"\0")), body())),
    ("header-value", "delete", talk(start((b"a", b"\x7f")), body())),
    (
        "header-value",
        "link",
        talk({"type": "http.response.early_hint", "links": [b"a\n"]}, START, BODY, extensions=ALL_EXTENSIONS),
    ),
    ("header-blank", "before", talk(start((b"a", b" b")), body())),
    ("header-blank", "after", talk(start((b"a", b"b\t")), body())),
    ("header-repeated", "content-type", talk(start((b"content-type", b"a/b"), (b"content-type", b"a/c")), body())),
    ("header-connection", "keep-alive", talk(start((b"keep-alive", b"5")), body(), http_version="2")),
    ("header-connection", "upgrade", talk(start((b"upgrade", b"h2c")), body(), http_version="3")),
    ("transfer-encoding", "chunked", talk(start((b"transfer-encoding", b"chunked")), body(b"a"))),
    ("length-malformed", "sign", talk(start((b"content-length", b"+5")), body(b"hello", True), body())),
    (
        "length-malformed",
        "two",
        talk(start((b"content-length", b"5"), (b"content-length", b"5")), body(b"hello", True), body()),
    ),
    ("length-forbidden", "204", talk(start((b"content-length", b"0"), status=204), body())),
    ("length-unknown", "whole", talk(start(), body(b"hello"))),
    ("body-forbidden", "head", talk(START, BODY, method="HEAD")),
    ("body-forbidden", "204", talk(start(status=204), body(b"a"))),
    ("body-forbidden", "304", talk(start((b"content-length", b"1"), status=304), body(b"a"))),
    (
        "body-forbidden",
        "path",
        talk(start(), {"type": "http.response.pathsend", "path": "/a"}, method="HEAD", extensions=ALL_EXTENSIONS),
    ),
    (
        "body-forbidden",
        "file",
        talk(start(), {"type": "http.response.zerocopysend", "file": 1}, method="HEAD", extensions=ALL_EXTENSIONS),
    ),
    ("body-reset", "205", talk(start((b"content-length", b"1"), status=205), body(b"a"))),
    ("length-mismatch", "short", talk(START, body(b"hell"))),
    ("length-mismatch", "none", talk(START, body())),
    ("length-mismatch", "long", talk(START, body(b"hello!"))),
    ("length-mismatch", "long-before-end", talk(START, body(b"hello", True), body(b"!", True), body())),
    (
        "length-mismatch",
        "file",
        talk(START, {"type": "http.response.zerocopysend", "file": 1, "count": 6}, extensions=ALL_EXTENSIONS),
    ),
    ("trailers-unannounced", "body", talk(start(), trailers(), extensions=ALL_EXTENSIONS, error=KeyError())),
    (
        "trailers-nowhere",
        "length",
        talk(start((b"content-length", b"0"), trailers=True), body(), trailers(), extensions=ALL_EXTENSIONS),
    ),
    (
        "trailers-nowhere",
        "head",
        talk(start(trailers=True), body(), trailers(), extensions=ALL_EXTENSIONS, method="HEAD", http_version="2"),
    ),
    (
        "hint-empty",
        "list",
        talk({"type": "http.response.early_hint", "links": []}, START, BODY, extensions=ALL_EXTENSIONS),
    ),
    (
        "hint-late",
        "after-start",
        talk(START, {"type": "http.response.early_hint", "links": [b"a"]}, BODY, extensions=ALL_EXTENSIONS),
    ),
    (
        "path-missing",
        "file",
        talk(start(), {"type": "http.response.pathsend", "path": f"{__file__}/a"}, extensions=ALL_EXTENSIONS),
    ),
    (
        "path-missing",
        "nul",
        talk(start(), {"type": "http.response.pathsend", "path": "/\0"}, extensions=ALL_EXTENSIONS),
    ),
    (
        "path-missing",
        "folder",
        talk(start(), {"type": "http.response.pathsend", "path": os.path.dirname(__file__)}, extensions=ALL_EXTENSIONS),
    ),
    (
        "length-mismatch",
        "path",
        talk(START, {"type": "http.response.pathsend", "path": __file__}, extensions=ALL_EXTENSIONS),
    ),
    (
        "file-range",
        "offset",
        talk(start(), {"type": "http.response.zerocopysend", "file": 1, "offset": -1}, extensions=ALL_EXTENSIONS),
    ),
    (
        "file-range",
        "count",
        talk(START, {"type": "http.response.zerocopysend", "file": 1, "count": 0}, extensions=ALL_EXTENSIONS),
    ),
    (
        "file-type",
        "closed",
        talk(start(), {"type": "http.response.zerocopysend", "file": CLOSED}, extensions=ALL_EXTENSIONS),
    ),
    ("trailers-early", "first", talk(start(trailers=True), trailers(), body(), trailers(), extensions=ALL_EXTENSIONS)),
    (
        "trailer-forbidden",
        "cookie",
        talk(start(trailers=True), body(), trailers((b"set-cookie", b"a=1")), extensions=ALL_EXTENSIONS),
    ),
    (
        "trailer-undeclared",
        "digest",
        talk(
            start((b"trailer", b"other"), trailers=True), body(), trailers((b"digest", b"1")), extensions=ALL_EXTENSIONS
        ),
    ),
    (
        "hint-type",
        "text",
        talk({"type": "http.response.early_hint", "links": "a"}, START, BODY, extensions=ALL_EXTENSIONS),
    ),
    (
        "hint-type",
        "link",
        talk({"type": "http.response.early_hint", "links": ["a"]}, START, BODY, extensions=ALL_EXTENSIONS),
    ),
    (
        "path-relative",
        "file",
        talk(start(), {"type": "http.response.pathsend", "path": "a.txt"}, extensions=ALL_EXTENSIONS),
    ),
    (
        "path-mixed",
        "after-part",
        talk(start(), body(b"a", True), {"type": "http.response.pathsend", "path": "C:\\a"}, extensions=ALL_EXTENSIONS),
    ),
    (
        "file-type",
        "object",
        talk(start(), {"type": "http.response.zerocopysend", "file": object()}, extensions=ALL_EXTENSIONS),
    ),
    (
        "file-type",
        "bytes-io",
        talk(start(), {"type": "http.response.zerocopysend", "file": io.BytesIO()}, extensions=ALL_EXTENSIONS),
    ),
    (
        "debug-order",
        "late",
        talk(start(), {"type": "http.response.debug", "info": {}}, body(), extensions=ALL_EXTENSIONS),
    ),
    # The server's.
    ("scope-key-missing", "method", talk(START, BODY, method=...)),
    ("scope-key-missing", "headers", talk(START, BODY, headers=...)),
    ("scope-key-missing", "asgi", talk(START, BODY, asgi=...)),
    ("scope-key-missing", "version", talk(START, BODY, asgi={})),
    ("scope-value", "spec-version", talk(START, BODY, asgi={"version": "3.0", "spec_version": 2.3})),
    ("scope-value", "method-case", talk(START, BODY, method="get")),
    ("scope-value", "method-token", talk(START, BODY, method="GET /")),
    ("scope-value", "path-bytes", talk(START, BODY, path=b"/")),
    ("scope-value", "raw-path-query", talk(START, BODY, raw_path=b"/?a=1")),
    ("scope-value", "query-text", talk(START, BODY, query_string="")),
    ("scope-value", "root-none", talk(START, BODY, root_path=None)),
    ("scope-value", "scheme-empty", talk(START, BODY, scheme="")),
    ("scope-value", "port-text", talk(START, BODY, server=("127.0.0.1", "80"))),
    ("scope-value", "server-text", talk(START, BODY, server="127.0.0.1:80")),
    ("scope-value", "client-none", talk(START, BODY, client=("127.0.0.1", None))),
    ("scope-value", "client-triple", talk(START, BODY, client=("::1", 80, 0))),
    ("scope-value", "state-none", talk(START, BODY, state=None)),
    ("scope-extensions", "none", talk(START, BODY, extensions=None)),
    ("scope-extensions", "value", talk(START, BODY, extensions={"tls": None})),
    ("scope-headers-type", "none", talk(START, BODY, headers=None)),
    ("scope-headers-once", "iterator", talk(START, BODY, headers=iter([]))),
    ("scope-header-type", "text", talk(START, BODY, headers=[("host", "a")])),
    ("scope-header-pseudo", "authority", talk(START, BODY, headers=[(b":authority", b"a")])),
    ("scope-header-case", "host", talk(START, BODY, headers=[(b"Host", b"a")])),
    ("scope-header-name", "space", talk(START, BODY, headers=[(b"a b", b"a")])),
    ("scope-header-value", "line", talk(START, BODY, headers=[(b"a", b"a\nb")])),
    ("scope-header-blank", "before", talk(START, BODY, headers=[(b"a", b" b")])),
    ("event-type", "none", talk(START, BODY, received=(None,))),
    ("event-type", "number", talk(START, BODY, received=({"type": 1},))),
    ("event-unknown", "websocket", talk(START, BODY, received=({"type": "websocket.connect"},))),
    ("event-key-unknown", "more", talk(START, BODY, received=({"type": "http.request", "more": True},))),
    ("event-value", "body-none", talk(START, BODY, received=({"type": "http.request", "body": None},))),
    ("event-value", "body-text", talk(START, BODY, received=({"type": "http.request", "body": ""},))),
    ("request-after-end", "again", talk(START, BODY, received=(EMPTY, EMPTY))),
    (
        "event-after-disconnect",
        "request",
        Talk([("app", START), ("app", BODY), ("server", DISCONNECT), ("server", EMPTY)]),
    ),
    (
        "request-length",
        "short",
        talk(START, BODY, received=body_messages(b"ab", b"c"), headers=[(b"content-length", b"4")]),
    ),
    (
        "request-length",
        "long",
        talk(START, BODY, received=body_messages(b"ab", b"c"), headers=[(b"content-length", b"2")]),
    ),
]
"""The rule, what is wrong, and an exchange in which that is wrong and nothing else but what follows from it."""

# What also is found, because it cannot be otherwise.
CONSEQUENCES = {
    ("message-type", "list"): {"no-response"},
    ("message-type", "without"): {"no-response"},
    ("message-type", "bytes"): {"no-response"},
    ("value-type", "body-text"): set[str](),
    ("start-twice", "after-body"): {"unfinished"},
    ("before-start", "file"): {"no-response"},
    ("before-start", "path"): {"no-response"},
    ("before-start", "push"): {"no-response"},
    ("after-end", "between"): {"length-unknown"},
    ("trailers-unannounced", "body"): {"raised"},
    ("receive-after-disconnect", "again"): set[str](),
    ("event-after-disconnect", "request"): {"receive-after-disconnect"},
    ("scope-header-name", "space"): set[str](),
    ("headers-once", "iterator"): set[str](),
    ("headers-once", "pair"): set[str](),
    ("header-type", "mapping"): set[str](),
    ("headers-type", "none"): set[str](),
    ("extension-not-offered", "trailers"): set[str](),
    ("event-value", "body-none"): set[str](),
}


@pytest.mark.parametrize(("rule", "case", "broken"), [pytest.param(*one, id=f"{one[0]}-{one[1]}") for one in MUTATIONS])
def test_single_mutation_is_found(rule: str, case: str, broken: Talk) -> None:
    """Each rule is found where it is broken, by whoever broke it, with its section; and nothing else is."""
    found = broken.findings()
    assert rule in [one.rule for one in found]
    assert {one.rule for one in found} - {rule} <= CONSEQUENCES.get((rule, case), set())
    for one in found:
        assert one.by == RULES[one.rule].by
        assert one.level == RULES[one.rule].level
        assert one.section.startswith(("ASGI", "RFC"))
        assert one.request.endswith((" /", " b'/'", "None /"))


@given(legal=talks(), choose=st.data())
def test_mutation_of_legal_exchange_is_found(legal: Talk, choose: st.DataObject) -> None:
    """One change anywhere in a legal exchange that the client does not cut short is an error, by whoever made it."""
    ends = [index for index, (who, one) in enumerate(legal.lines) if who == "app" and is_final(one, legal)]
    if legal.error is not None or not ends:
        return
    lines = legal.lines[: ends[0] + 1]
    sends = [index for index, (who, _) in enumerate(lines) if who == "app"]
    at = choose.draw(st.sampled_from(sends))
    first = next(index for index in sends if lines[index][1]["type"] == "http.response.start")
    changes: dict[str, Callable[[], list[tuple[str, Any]]]] = {
        "second start": lambda: [*lines, lines[first]],
        "no start": lambda: [*lines[:first], *lines[first + 1 :]],
        "no end": lambda: lines[:-1],
        "another end": lambda: [*lines, lines[-1]],
        "wrong type": lambda: [*lines[:at], ("app", {**lines[at][1], "type": "http.response.strat"}), *lines[at:]],
        "text": lambda: [*lines[:first], ("app", {**lines[first][1], "status": "200"}), *lines[first + 1 :]],
        "upper case": lambda: [
            *lines[:first],
            ("app", {**lines[first][1], "headers": [*lines[first][1]["headers"], (b"X-A", b"b")]}),
            *lines[first + 1 :],
        ],
        "request after end": lambda: [*lines, ("server", EMPTY)],
    }
    name = choose.draw(st.sampled_from(sorted(changes)))
    assert Talk(changes[name](), legal.scope).rules("error") != []


def is_final(message: Message, legal: Talk) -> bool:
    if message["type"] == "http.response.trailers":
        return not message.get("more_trailers")
    has_trailers = any(who == "app" and one.get("trailers") for who, one in legal.lines)
    return message["type"] == "http.response.body" and not message.get("more_body") and not has_trailers


def test_every_rule_has_a_mutation() -> None:
    """The table of rules holds none that nothing shows."""
    shown = {rule for rule, _, _ in MUTATIONS} | {rule for rule, _ in LIFESPANS}
    elsewhere = {"receive-concurrent", "scope-type", "event-key-missing"}
    assert RULES.keys() - shown == elsewhere


# --- lifespan --------------------------------------------------------------------------------------------

STARTUP = ("server", {"type": "lifespan.startup"})
SHUTDOWN = ("server", {"type": "lifespan.shutdown"})
STARTED = ("app", {"type": "lifespan.startup.complete"})
STOPPED = ("app", {"type": "lifespan.shutdown.complete"})


def lifespan(*lines: tuple[str, Any], error: BaseException | None = None, **changes: Any) -> Talk:
    scope = {key: value for key, value in {**LIFESPAN, **changes}.items() if value is not ...}
    return Talk(list(lines), scope, error)


@pytest.mark.parametrize(
    "legal",
    [
        pytest.param(lifespan(STARTUP, STARTED, SHUTDOWN, STOPPED), id="whole"),
        pytest.param(lifespan(STARTUP, STARTED, SHUTDOWN, STOPPED, state=...), id="without-state"),
        pytest.param(lifespan(STARTUP, ("app", {"type": "lifespan.startup.failed", "message": "no"})), id="failed"),
        pytest.param(
            lifespan(STARTUP, STARTED, SHUTDOWN, ("app", {"type": "lifespan.shutdown.failed"})), id="shutdown-failed"
        ),
    ],
)
def test_legal_lifespan_passes(legal: Talk) -> None:
    """Both ways of each answer."""
    assert legal.rules() == []


LIFESPANS: dict[tuple[str, str], Talk] = {
    ("lifespan-order", "before-startup"): lifespan(STARTED, STARTUP, STARTED, SHUTDOWN, STOPPED),
    ("lifespan-order", "twice"): lifespan(STARTUP, STARTED, STARTED, SHUTDOWN, STOPPED),
    ("lifespan-order", "stopped-early"): lifespan(STARTUP, STARTED, STOPPED, SHUTDOWN, STOPPED),
    ("lifespan-order", "both"): lifespan(STARTUP, STARTED, SHUTDOWN, STOPPED, STOPPED),
    ("lifespan-unanswered", "startup"): lifespan(STARTUP),
    ("lifespan-unanswered", "shutdown"): lifespan(STARTUP, STARTED, SHUTDOWN),
    ("lifespan-ignored", "all"): lifespan(),
    ("lifespan-left", "running"): lifespan(STARTUP, STARTED),
    ("lifespan-event-order", "shutdown-first"): lifespan(SHUTDOWN, STOPPED),
    ("lifespan-event-order", "startup-twice"): lifespan(STARTUP, STARTED, STARTUP, STARTED, SHUTDOWN, STOPPED),
    ("raised", "unsupported"): lifespan(error=ValueError("http only")),
    ("lifespan-raised", "running"): lifespan(STARTUP, STARTED, error=ValueError()),
    ("message-unknown", "http"): lifespan(STARTUP, STARTED, ("app", START), SHUTDOWN, STOPPED),
    ("message-type", "none"): lifespan(STARTUP, ("app", None), STARTED, SHUTDOWN, STOPPED),
    ("key-unknown", "message"): lifespan(STARTUP, ("app", {**STARTED[1], "message": "up"}), SHUTDOWN, STOPPED),
    ("value-type", "message"): lifespan(STARTUP, ("app", {"type": "lifespan.startup.failed", "message": b"no"})),
    ("event-unknown", "http"): lifespan(STARTUP, STARTED, ("server", EMPTY), SHUTDOWN, STOPPED),
    ("event-type", "none"): lifespan(STARTUP, STARTED, ("server", None), SHUTDOWN, STOPPED),
    ("event-key-unknown", "time"): lifespan(("server", {**STARTUP[1], "time": 1}), STARTED, SHUTDOWN, STOPPED),
    ("scope-value", "state"): lifespan(STARTUP, STARTED, SHUTDOWN, STOPPED, state=None),
    ("scope-key-missing", "asgi"): lifespan(STARTUP, STARTED, SHUTDOWN, STOPPED, asgi=None),
}


@pytest.mark.parametrize(
    ("rule", "broken"), [pytest.param(rule, broken, id=f"{rule}-{case}") for (rule, case), broken in LIFESPANS.items()]
)
def test_broken_lifespan_is_found(rule: str, broken: Talk) -> None:
    """Startup and shutdown, each once, each answered."""
    assert broken.rules() == [rule]


# --- the wrapper -----------------------------------------------------------------------------------------


async def call(app: Any, *, scope: Any = None, messages: Any = (EMPTY,)) -> Channel:
    channel = Channel(messages, suspends=True)
    with anyio.fail_after(5):
        await app(http_scope() if scope is None else scope, channel.receive, channel.send)
    return channel


def sending(*messages: Message) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in messages:
            await send(message)

    return app


async def test_lint_of_legal_application_changes_nothing() -> None:
    """The same answer with and without it, and nothing is raised."""

    async def endpoint(request: Request) -> Response:
        return Response(await request.body())

    app = Handler(endpoint)
    plain, linted = [await call(one, messages=body_messages(b"a", b"b")) for one in (app, lint(app))]
    assert plain.sent == linted.sent
    assert lint(app).app is app


async def test_lint_raises_out_of_send_with_the_section() -> None:
    """The message does not go out, and the error tells what, by whom, where it is written and of which request."""
    channel = Channel()
    app = lint(sending(start((b"A", b"b")), body()))
    with pytest.raises(LintError) as raised, anyio.fail_after(5):
        await app(http_scope(), channel.receive, channel.send)
    finding = raised.value.finding
    assert (finding.rule, finding.level, finding.by) == ("header-case", "error", "application")
    assert str(raised.value) == (
        "error by the application: the name b'A' is not in lower case "
        '(header-case; ASGI HTTP 2.5, "Response Start - send event") [GET /]'
    )
    assert channel.sent == []


async def test_lint_error_that_the_application_swallows_is_raised_in_the_end() -> None:
    """A framework that answers every error with a 500 hides nothing."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send(start(status=1000))
        except Exception:
            await send(start(status=500))
            await send(body())
            with suppress(LintError):
                await send(body())

    with pytest.raises(LintError, match="the status 1000"):
        await call(lint(app))

    async def groups(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(send, start(status=1000))

    with pytest.raises(LintError, match="the status 1000") as raised:
        await call(lint(groups))
    assert isinstance(raised.value.__cause__, ExceptionGroup)


async def test_lint_raises_out_of_receive_and_before_the_application() -> None:
    """What the server does wrong reaches the application as an error, or not at all."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await receive())

    with pytest.raises(LintError, match="by the server"):
        await call(lint(app), messages=[{"type": "http.request", "body": "text"}])
    with pytest.raises(LintError, match="'method' of the scope"):
        await call(lint(app), scope=http_scope(method="get"))
    assert seen == []


async def test_lint_raises_where_the_application_returns_too_early() -> None:
    """Without a response, or in the middle of one."""
    with pytest.raises(LintError, match="without a response"):
        await call(lint(sending()))
    with pytest.raises(LintError, match="without a last part"):
        await call(lint(sending(start())))


async def test_lint_warns_of_what_is_not_recommended() -> None:
    """A Python warning, and the response goes its way."""
    with pytest.warns(LintWarning, match="transfer-encoding"):
        channel = await call(lint(sending(start((b"transfer-encoding", b"chunked")), body())))
    assert channel.status == 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A note is not worth a warning.
        await call(lint(sending(start(), body(b"hello"))))


async def test_lint_collects_into_a_list_or_a_function() -> None:
    """Nothing is raised then, and every message goes its way."""
    found: list[Finding] = []
    seen: list[str] = []
    broken = sending(start((b"A", b"b")), body(b"hello"))
    channel = await call(lint(broken, collect=found))
    assert [one.rule for one in found] == ["header-case", "length-unknown"]
    assert channel.headers == [(b"A", b"b")]
    await call(lint(broken, collect=lambda finding: seen.append(finding.rule)))
    assert seen == ["header-case", "length-unknown"]
    with pytest.raises(TypeError, match="a list or a function"):
        lint(broken, collect=True)  # type: ignore[arg-type]


async def test_lint_passes_what_the_application_raises() -> None:
    """The same object, a cancellation included, which is no end of the application's own."""
    error = KeyError("of the application")

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise error

    with pytest.raises(KeyError) as raised:
        await call(lint(failing))
    assert raised.value is error

    found: list[Finding] = []

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0.01) as scope:
        await call(lint(waiting, collect=found))
    assert scope.cancelled_caught
    assert found == []


@pytest.mark.parametrize("scope", [http_scope(), LIFESPAN], ids=["http", "lifespan"])
async def test_lint_finds_two_readers_at_once(scope: Any) -> None:
    """receive() is called while another call of it waits."""
    found: list[Finding] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            group.start_soon(receive)

    async def receive() -> Message:
        await checkpoint()
        return {"type": "http.request"} if scope is not LIFESPAN else {"type": "lifespan.startup"}

    with anyio.fail_after(5):
        await lint(app, collect=found)(scope, receive, Channel().send)
    assert next(one.rule for one in found) == "receive-concurrent"


async def test_lint_excuses_an_application_whose_server_failed() -> None:
    """Where receive() or send() raised, no response is owed, in a lifespan neither."""
    found: list[Finding] = []

    async def raising(*args: Any) -> Any:
        raise OSError("the peer is gone")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(OSError, match="gone"):
            await receive()

    for scope in (http_scope(), LIFESPAN):
        await lint(app, collect=found)(scope, raising, raising)
    assert found == []


async def test_lint_hands_other_scopes_through() -> None:
    """Websockets and what there may be in future: the same objects, and nothing is said of them."""
    seen: list[Any] = []

    async def app(*args: Any) -> None:
        seen.extend(args)

    websocket = {"type": "websocket"}
    channel = Channel()
    await lint(app)(websocket, channel.receive, channel.send)
    assert seen == [websocket, channel.receive, channel.send]
    others: list[Any] = [[], {"type": 1}, {}]
    for scope in others:
        with pytest.raises(LintError, match="the scope is a"):
            await lint(app)(scope, channel.receive, channel.send)


def test_lint_does_not_consume_what_can_be_read_once() -> None:
    """Headers that are an iterator reach the server as they were."""
    headers: Iterator[tuple[bytes, bytes]] = iter([(b"a", b"b")])
    assert talk({**START, "headers": headers}, BODY).rules() == ["headers-once"]
    assert list(headers) == [(b"a", b"b")]


def test_path_of_the_system_is_absolute() -> None:
    """Whatever the system calls absolute."""
    sent: Message = {"type": "http.response.pathsend", "path": os.path.abspath(__file__)}
    assert talk(start(), sent, extensions=ALL_EXTENSIONS).rules() == []
