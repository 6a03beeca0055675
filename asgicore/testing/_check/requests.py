"""Probes with requests that are as they should be, however odd."""

from __future__ import annotations

import re
from time import process_time
from typing import Any, Final

from .exchange import Answer, Exchange, Item
from .probing import Probing, body_items, describe

_FORM: Final = (b"content-type", b"application/x-www-form-urlencoded")


async def get(p: Probing) -> None:
    """GET."""
    profile = await p.profile()
    exchange = p.exchange()
    await p.finish(exchange)
    p.judge(exchange, "GET")
    if profile.kind == "waits":
        p.found("unanswered", f"no answer within {p.deadline:g} s")


async def head(p: Probing) -> None:
    """HEAD: an answer without a body."""
    exchange = p.exchange("HEAD")
    await p.finish(exchange)
    p.judge(exchange, "HEAD")


# With how many of two header fields, the second being content-length, and whether all is there when it is asked for.
_WAYS: Final = (("in five parts", 2, False), ("in five parts at once", 2, True), ("without content-length", 1, False))


async def post(p: Probing) -> None:
    """POST with a body in one part, in several, slow and at once, some of them empty, and without content-length."""
    body = b"name=asgicore&text=hello"
    length = (b"content-length", b"%d" % len(body))
    exchange = p.exchange("POST", body_items(body), headers=[_FORM, length])
    await p.finish(exchange)
    p.judge(exchange, "POST")
    if not exchange.is_complete:
        if exchange.has_left and exchange.status is None and (await p.profile()).kind != "waits":
            p.found("unanswered", f"no answer to POST within {p.deadline:g} s")
        return
    wholes: dict[int, Answer | None] = {}
    for what, fields, is_eager in _WAYS:
        if fields not in wholes:
            # With the same header fields: an application may show them, or ask for content-length.
            wholes[fields] = await p.ask_twice("POST", body_items(body), headers=[_FORM, length][:fields])
        whole = wholes[fields]
        items = body_items(body[:4], b"", body[4:10], body[10:], b"", pause=0.0 if is_eager else 0.002)
        exchange = p.exchange("POST", items, headers=[_FORM, length][:fields], is_eager=is_eager)
        await p.finish(exchange)
        p.judge(exchange, f"POST {what}")
        if whole is not None and exchange.answer != whole:
            p.found("parts-differ", f"a body {what} is answered with {exchange.status}, otherwise than in one")


_HEADERS: Final[dict[str, list[tuple[bytes, bytes]]]] = {
    "repeated": [(b"accept", b"text/html"), (b"accept", b"text/plain"), (b"x-probe", b"1"), (b"x-probe", b"2")],
    "empty": [(b"x-probe", b""), (b"cookie", b""), (b"content-type", b"")],
    "that are not ASCII": [(b"x-probe", b"caf\xe9"), (b"cookie", b"a=\xff")],
    "in upper case": [(b"X-Probe", b"1"), (b"Cookie", b"a=1")],
}


async def headers(p: Probing) -> None:
    """Headers that are repeated, empty, in upper case, or not ASCII."""
    for what, fields in _HEADERS.items():
        exchange = p.exchange(headers=fields)
        await p.finish(exchange)
        p.judge(exchange, f"GET with headers {what}")


async def header_cost(p: Probing) -> None:
    """A header 4000 times, against 1000 times: what it costs."""
    if not await p.answers("complete"):
        return
    # The least of them is the one that nothing else has slowed down.
    before = [await _time(p, 1000) for _ in range(2)]
    many = await _time(p, 4000)
    few = min(*before, await _time(p, 1000))
    # Four times as many: linear is 4, the square is 16.
    if many > 0.05 and many > 8 * few:
        p.found("header-cost", f"1000 repeats take {few * 1000:.0f} ms, 4000 take {many * 1000:.0f} ms")


async def _time(p: Probing, count: int) -> float:
    """How long the processor works for so many headers."""
    began = process_time()
    await p.ask(headers=[(b"x-probe", b"0123456789" * 10)] * count)
    return process_time() - began


async def cookies(p: Probing) -> None:
    """Two cookie fields, as HTTP/2 has them, against one with both."""
    one, two = await _ask_joined_and_split(p, b"cookie")
    if one is None or two == one:
        return
    # Who shows all header fields makes a difference between others, too.
    other, others = await _ask_joined_and_split(p, b"x-probe")
    if other == others:
        p.found("cookies-split", f"two cookie fields are not read as one: {_differ(one, two)}")


async def _ask_joined_and_split(p: Probing, name: bytes) -> tuple[Answer | None, Answer | None]:
    joined = await p.ask_twice(headers=[(name, b"first=1; second=2")])
    return joined, await p.ask(headers=[(name, b"first=1"), (name, b"second=2")])


async def header_alias(p: Probing) -> None:
    """A header with underscores in place of hyphens."""
    none = await p.ask_twice()
    real = await p.ask(headers=[(b"x-forwarded-for", b"192.0.2.66")])
    forged = await p.ask(headers=[(b"x_forwarded_for", b"192.0.2.66")])
    if none is not None and real != none and forged == real:
        p.found("header-alias", "x_forwarded_for, which no proxy removes, is taken for x-forwarded-for")


_NOT_UTF8: Final = {"query_string": b"q=\xff\xfe&r=%ff"}

_ODD: Final[dict[str, dict[str, Any]]] = {
    "without server": {"server": ...},
    "with server None": {"server": None},
    "with a unix socket": {"server": ("/run/app.sock", None)},
    "with addresses as lists": {"server": ["127.0.0.1", 8000], "client": ["127.0.0.1", 50000]},
    "without client": {"client": ...},
    "with client None": {"client": None},
    "without root_path": {"root_path": ...},
    "with raw_path None": {"raw_path": None},
    "without raw_path": {"raw_path": ...},
    "without scheme": {"scheme": ...},
    "with headers as tuples": {"headers": ((b"host", b"localhost"), (b"accept", b"*/*"))},
    "with headers as lists": {"headers": [[b"host", b"localhost"], [b"accept", b"*/*"]]},
    "with no headers": {"headers": []},
    "without spec_version": {"asgi": {"version": "3.0"}},
    "without state": {"state": ...},
    "with HTTP/1.0": {"http_version": "1.0"},
    "with HTTP/2": {"http_version": "2"},
    "with a query that is not UTF-8": _NOT_UTF8,
    "with a query with line breaks": {"query_string": b"next=%0d%0aset-cookie:%20a=1&url=/%0d%0ax:%20y"},
    "with a Host that is none": {"headers": [(b"host", b"a b/c@d")]},
}


# Not allowed, and seen in the wild.
_BAD: Final[dict[str, dict[str, Any]]] = {
    "with the port as text": {"server": ("127.0.0.1", "8000"), "client": ("127.0.0.1", "50000")},
    "with root_path None": {"root_path": None},
    "with extensions None": {"extensions": None},
}

_SCOPES: Final = [
    *(("odd-scope", what, changes) for what, changes in _ODD.items()),
    *(("bad-scope", what, changes) for what, changes in _BAD.items()),
]


async def odd_scopes(p: Probing) -> None:
    """Scopes that are unusual: keys left out, None, text for numbers, lists for tuples, unix sockets."""
    if not await p.answers("complete"):
        return
    profile = await p.profile()
    for rule, what, changes in _SCOPES:
        exchange = p.exchange(scope=changes)
        await p.finish(exchange)
        p.take_over(exchange)
        if exchange.error is not None:
            p.found(rule, f"a scope {what}: raises {describe(exchange.error)}")
        elif not exchange.is_complete:
            p.found(rule, f"a scope {what}: not answered within {p.deadline:g} s")
        elif exchange.status == 500 and profile.answer.status != 500:
            p.found(rule, f"a scope {what}: answered with 500")
        elif changes is _NOT_UTF8 and exchange.status == 400 and profile.answer.status != 400:
            p.found("query-refused", f"a scope {what}: answered with 400")
        if b"None" in exchange.body and "None" not in profile.answer.body:
            p.found("none-as-text", f"a scope {what}: the answer speaks of 'None'")


async def root_path(p: Probing) -> None:
    """A path beside the root: the root is /app, the path begins with /apple."""
    if not await p.answers("complete", "streams"):
        return
    path = f"/apple{p.path}"
    exchanges: list[Exchange] = []
    for root in ("", "/app"):
        exchange = p.exchange(scope={"root_path": root, "path": path, "raw_path": path.encode()})
        await p.finish(exchange)
        exchanges.append(exchange)
    plain, rooted = exchanges
    if re.search(rb"(?<!app)le" + re.escape(p.path.encode()), rooted.body):
        p.found("root-cut", f"the root /app makes le{p.path} of the path {path}")
    elif plain.status != rooted.status:
        p.found("root-beside", f"under the root /app, {path} is answered with {rooted.status}, not with {plain.status}")


_TOO_MANY_REQUESTS: Final = 429


async def extra_messages(p: Probing) -> None:
    """Three messages after the end of the body that hold nothing."""
    if not await p.answers("complete", "streams", "waits"):
        return
    profile = await p.profile()
    extra: list[Item] = [{"type": "http.request", "body": b"", "more_body": False}] * 3
    exchange = p.exchange(items=[*body_items(b""), *extra])
    await p.finish(exchange)
    if exchange.error is not None:
        p.found("extra-message", f"a message after the body: raises {describe(exchange.error)}")
    elif profile.kind == "complete" and exchange.status not in (profile.answer.status, _TOO_MANY_REQUESTS):
        p.found("extra-message", f"a message after the body: answered with {exchange.status}")


async def ranges(p: Probing) -> None:
    """The first byte of a file, by Range."""
    if not await p.answers("complete"):
        return
    whole = p.exchange()
    await p.finish(whole)
    is_file = whole.header(b"last-modified") or whole.header(b"content-disposition")
    if whole.status != 200 or not whole.size or not is_file:
        p.skipped = "the answer is no file"
        return
    part = p.exchange(headers=[(b"range", b"bytes=0-0")])
    await p.finish(part)
    p.judge(part, "GET with a Range")
    of = part.header(b"content-range")
    if part.status == 200:
        p.found("range-ignored", f"bytes=0-0 is answered with all {part.size} bytes")
    # RFC 9110 section 14.4: * stands for a length that is not known.
    elif part.status == 206 and (
        part.body != whole.body[:1] or of not in (b"bytes 0-0/%d" % whole.size, b"bytes 0-0/*")
    ):
        p.found("range-wrong", f"bytes=0-0 of {whole.size} bytes is answered with {part.size}, as {of!r}")


_WEBSOCKET: Final[dict[str, Any]] = {"type": "websocket", "scheme": "ws", "method": ..., "subprotocols": []}


async def websocket(p: Probing) -> None:
    """A websocket handshake, to be accepted or refused."""
    exchange = p.exchange(items=[{"type": "websocket.connect"}], scope=_WEBSOCKET)
    await exchange.until_ended(p.glance)
    if exchange.error is not None:
        p.found("websocket-raised", f"a websocket handshake: raises {describe(exchange.error)}")
    await p.abandon(exchange)


def _differ(one: Any, other: Any) -> str:
    if other is None:
        return "no answer"
    if one.status != other.status:
        return f"{other.status} in place of {one.status}"
    return f"{other.body[:60]!r} in place of {one.body[:60]!r}"
