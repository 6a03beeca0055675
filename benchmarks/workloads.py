"""What is asked of every peer, how its answer is checked, and what we go for."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from typing import Any

from . import shared
from .apps import BARE, HANDLERS, OBSERVED, PEERS, Peer, compression, events, hops, wsgi

Message = dict[str, Any]

# What a browser sends with every request, in the order of the wire.
BROWSER = [
    (b"host", b"localhost:8000"),
    (b"connection", b"keep-alive"),
    (b"upgrade-insecure-requests", b"1"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"sec-fetch-mode", b"navigate"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"accept-language", b"en-GB,en;q=0.8,fr;q=0.5"),
]
FIELDS = {name: f"value{index}" for index, name in enumerate(shared.QUERY_NAMES)}
COOKIES = {name: f"{index}{'c' * 20}" for index, name in enumerate(shared.COOKIE_NAMES)}
SENT = {name.decode(): value.decode() for name, value in BROWSER}
SUMMARY = shared.summary([SENT[name] for name in shared.HEADER_NAMES], FIELDS.values(), COOKIES.values())

NAME = "A name that comes back"
DOCUMENT = json.dumps({"name": NAME, "tags": ["short", "words"] * 12, "numbers": list(range(173))}).encode()

EMPTY: Message = {"type": "http.request", "body": b"", "more_body": False}


class WrongAnswerError(Exception):
    """A peer did not do what it was asked for, so its time would mean nothing."""


@dataclass(frozen=True)
class Goal:
    """``ours`` takes at most ``limit`` times what ``reference`` takes.

    A reference of ``"best"`` is the best peer; with an empty one ``limit`` is the figure itself.
    """

    ours: str
    reference: str
    limit: float


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    check: Callable[[list[Message]], None]
    goals: tuple[Goal, ...]
    unit: str = "µs"
    per: int = 1
    """A figure is for one of so many things that a request does."""
    method: str = "GET"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    query: bytes = b""
    body: Callable[[], Iterable[Message]] = lambda: (EMPTY,)
    app: str = ""
    """The application, if it is not called like the workload."""
    loop: str = "asyncio"
    is_task_each: bool = False
    peers: tuple[str, ...] = ()
    """Empty: all."""
    own_peers: tuple[Peer, ...] = ()
    """Peers of this row alone, instead of those of all rows."""
    is_apart: bool = False
    """Whether each peer needs a process of its own."""
    note: str = ""

    def scopes(self) -> Iterator[dict[str, Any]]:
        """Fresh scopes without end, as uvicorn builds them."""
        path = f"/{self.app or self.name}"
        while True:
            yield {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": "1.1",
                "server": ("127.0.0.1", 8000),
                "client": ("127.0.0.1", 50000),
                "scheme": "http",
                "root_path": "",
                "headers": [*BROWSER, *self.headers],
                "state": {},
                "method": self.method,
                "path": path,
                "raw_path": path.encode(),
                "query_string": self.query,
            }


def body_of(sent: list[Message], status: int = 200) -> bytes:
    """The body of a response, after a look at the order and form of its messages.

    Raises:
        WrongAnswerError: It is no complete response with this status.
    """
    kinds = [message["type"] for message in sent]
    if kinds[:1] != ["http.response.start"] or set(kinds[1:]) != {"http.response.body"}:
        raise WrongAnswerError(f"messages {kinds[:5]}")
    if sent[0]["status"] != status:
        raise WrongAnswerError(f"status {sent[0]['status']}: {bytes(sent[1].get('body', b''))[:200]!r}")
    if [bool(message.get("more_body")) for message in sent[1:]] != [True] * (len(sent) - 2) + [False]:
        raise WrongAnswerError("the last message, and only that, ends the body")
    body = b"".join(message.get("body", b"") for message in sent[1:])
    declared = [value for name, value in sent[0]["headers"] if name.lower() == b"content-length"]
    if declared and [int(value) for value in declared] != [len(body)]:
        raise WrongAnswerError(f"declared {declared}, sent {len(body)} bytes")
    return body


def text(expected: str) -> Callable[[list[Message]], None]:
    def check(sent: list[Message]) -> None:
        body = body_of(sent)
        if body != expected.encode():
            raise WrongAnswerError(f"{body[:200]!r}")
        types = [value for name, value in sent[0]["headers"] if name.lower() == b"content-type"]
        if len(types) != 1 or not types[0].startswith(b"text/plain"):
            raise WrongAnswerError(f"content-type {types}")

    return check


def check_inspect(sent: list[Message]) -> None:
    body = body_of(sent)
    if json.loads(body) != SUMMARY:
        raise WrongAnswerError(f"{body[:200]!r}")


def check_whole(sent: list[Message]) -> None:
    if body_of(sent) != shared.whole():
        raise WrongAnswerError("another body")
    if max(len(message.get("body", b"")) for message in sent[1:]) > shared.MESSAGE_BYTES:
        raise WrongAnswerError("a message of more than 64 KiB")


def check_download(sent: list[Message]) -> None:
    check_whole(sent)
    if len(sent) < shared.MESSAGES:
        raise WrongAnswerError("the parts did not go out one by one")


def check_fresh(sent: list[Message]) -> None:
    if body_of(sent) != b"".join(shared.sync_fresh()):
        raise WrongAnswerError("another body")
    if len(sent) < shared.FRESH_PARTS:
        raise WrongAnswerError("the parts did not go out one by one")


def check_file(sent: list[Message]) -> None:
    # By its pieces: the expected body as a whole would be as big again.
    body, size = memoryview(body_of(sent)), shared.MESSAGE_BYTES
    if len(body) != shared.FILE_BYTES or any(
        body[start : start + size] != shared.BLOCK[: len(body) - start] for start in range(0, len(body), size)
    ):
        raise WrongAnswerError(f"another body of {len(body):,} bytes")


def sent_file(size: int) -> Callable[[list[Message]], None]:
    def check(sent: list[Message]) -> None:
        if body_of(sent) != shared.whole()[:size]:
            raise WrongAnswerError("another body")
        if not any(name.lower() == b"content-length" for name, _ in sent[0]["headers"]):
            raise WrongAnswerError("no length, which the file has")

    return check


def check_error(sent: list[Message]) -> None:
    if b"Server Error (500)" not in body_of(sent, 500):
        raise WrongAnswerError("not the page of a 500")


def check_gzip(sent: list[Message]) -> None:
    if zlib.decompress(body_of(sent), 31) != compression.DOCUMENT:
        raise WrongAnswerError("another body")


def check_parts(sent: list[Message]) -> None:
    if body_of(sent) != shared.PART * shared.PARTS:
        raise WrongAnswerError("another body")
    if len(sent) < shared.PARTS:
        raise WrongAnswerError("the parts did not go out one by one")


def check_events(sent: list[Message]) -> None:
    data = re.findall(rb"^data: (.*?)\r?$", body_of(sent), re.MULTILINE)
    if data != [shared.event_data(number).encode() for number in range(shared.EVENTS)]:
        raise WrongAnswerError(f"{len(data)} events, {data[:2]!r}")
    if len(sent) < shared.EVENTS:
        raise WrongAnswerError("the events did not go out one by one")
    types = [value for name, value in sent[0]["headers"] if name.lower() == b"content-type"]
    if len(types) != 1 or not types[0].startswith(b"text/event-stream"):
        raise WrongAnswerError(f"content-type {types}")


def fresh_messages(size: int, number: int) -> Iterator[Message]:
    """Messages with bytes of their own, for figures of memory: servers give no bytes twice."""
    for index in range(number):
        yield {"type": "http.request", "body": b"%c" % (index & 127) * size, "more_body": index < number - 1}


def upload(
    name: str,
    title: str,
    goals: tuple[Goal, ...] = (),
    size: int = shared.MESSAGE_BYTES,
    number: int = shared.MESSAGES,
    is_fresh: bool = False,
    **more: Any,
) -> Workload:
    """An upload of ``number`` messages of ``size`` bytes."""
    message: Message = {"type": "http.request", "body": bytes(size), "more_body": True}
    last: Message = {**message, "more_body": False}
    return Workload(
        name,
        title,
        text(str(size * number)),
        goals,
        method="POST",
        headers=[(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % (size * number))],
        body=(lambda: fresh_messages(size, number))
        if is_fresh
        else lambda: chain(repeat(message, number - 1), (last,)),
        **more,
    )


BOUNDARY = b"a-boundary-of-some-length"
FORM_HEAD = b"\r\n".join(
    (
        b"--" + BOUNDARY,
        b'Content-Disposition: form-data; name="file"; filename="file.bin"',
        b"Content-Type: application/octet-stream",
        b"",
        b"",
    )
)
FORM_TAIL = b"\r\n--" + BOUNDARY + b"--\r\n"


def form(name: str, title: str, number: int = shared.MESSAGES, **more: Any) -> Workload:
    """A form with one file of ``number`` times 64 KiB; the answer is the size of the file."""
    size = shared.MESSAGE_BYTES
    bodies = chain((FORM_HEAD,), repeat(shared.BLOCK, number), (FORM_TAIL,))
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    messages[-1]["more_body"] = False
    length = len(FORM_HEAD) + size * number + len(FORM_TAIL)
    return Workload(
        name,
        title,
        text(str(size * number)),
        more.pop("goals", ()),
        method="POST",
        headers=[
            (b"content-type", b"multipart/form-data; boundary=" + BOUNDARY),
            (b"content-length", b"%d" % length),
        ],
        body=lambda: messages,
        **more,
    )


URLENCODED_FORM = b"name=Ada+Lovelace&email=ada%40example.org&text=some+words%21&submit=1"
FIELDS_FORM = b"".join(
    b'--%b\r\nContent-Disposition: form-data; name="field%d"\r\n\r\nvalue %d\r\n' % (BOUNDARY, index, index)
    for index in range(shared.FORM_FIELDS)
) + (b"--" + BOUNDARY + b"--\r\n")


def fields(name: str, title: str, body: bytes, number: int, content_type: bytes, **more: Any) -> Workload:
    """A form of ``number`` fields in one message; the answer is their number."""
    return Workload(
        name,
        title,
        text(str(number)),
        method="POST",
        headers=[(b"content-type", content_type), (b"content-length", b"%d" % len(body))],
        body=lambda: ({"type": "http.request", "body": body, "more_body": False},),
        app="form",
        **more,
    )


HOP_GOALS = (Goal("asgicore", "anyio.to_thread", 0.7),)
HOP_NOTE = "Threads.run in a bare ASGI function"

# "notify" streams in the same way.
STREAMERS = ("raw", "asgicore", "starlette-pair", "starlette", "fastapi", "litestar", "quart", "django")
STREAMERS_NOTE = (
    "peers that take no synchronous generator, or run it on the loop, are left out; raw is a run_in_executor for "
    "each part; Django has the whole of it in memory before the first part goes out"
)

# "notify" sends files in the same way.
FILERS = ("asgicore", "starlette-pair", "starlette", "litestar", "baize")
FILERS_NOTE = "with length, tag and date; Litestar sends messages of 1 MiB, baize of 256 KiB, the others of 64 KiB"

EVENTS_NOTE = "from an async generator; raw writes what it knows to be right, and sends no pings"
FORM_PEERS = ("asgicore", "asgicore-notify", "asgicore-stream", "starlette-pair", "starlette", "baize")

HELLO_GOALS = (
    Goal("asgicore", "falcon", 1.0),
    Goal("asgicore", "blacksheep", 1.0),
    Goal("asgicore-notify", "starlette-pair", 1.0),
)

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("hello", "hello", text(shared.HELLO), HELLO_GOALS),
        Workload(
            "inspect",
            "inspect: 3 headers, 10 query fields, 5 cookies read, small JSON out",
            check_inspect,
            (Goal("asgicore", "falcon", 1.0),),
            headers=[(b"cookie", "; ".join(f"{name}={value}" for name, value in COOKIES.items()).encode())],
            query="&".join(f"{name}={value}" for name, value in FIELDS.items()).encode(),
        ),
        Workload(
            "json",
            "1 KiB JSON in, field out",
            text(NAME),
            (Goal("asgicore", "starlette-pair", 1.0),),
            method="POST",
            headers=[(b"content-type", b"application/json"), (b"content-length", b"%d" % len(DOCUMENT))],
            body=lambda: ({"type": "http.request", "body": DOCUMENT, "more_body": False},),
        ),
        upload(
            "count",
            "64 MiB upload streamed and counted, 64 KiB messages",
            (Goal("asgicore", "best", 1.0),),
            note='asgicore with body="stream"; Django has spooled the body before the view runs',
        ),
        upload("spool", "64 MiB upload to a spooled file, read back", (Goal("asgicore", "raw", 1.1),), unit="ms"),
        form(
            "form-upload",
            "64 MiB multipart upload to a spooled file",
            goals=(Goal("asgicore-stream", "starlette-pair", 1 / 3),),
            unit="ms",
            peers=FORM_PEERS,
            note="asgicore has spooled the body before it is parsed, and reads it once; asgicore-stream parses it "
            "as it comes, as the others do",
        ),
        fields(
            "form-small",
            "urlencoded form of 4 fields",
            URLENCODED_FORM,
            4,
            b"application/x-www-form-urlencoded",
            goals=(Goal("asgicore", "starlette-pair", 1.0),),
            peers=FORM_PEERS,
        ),
        fields(
            "form-fields",
            "multipart form of 1,000 fields",
            FIELDS_FORM,
            shared.FORM_FIELDS,
            b"multipart/form-data; boundary=" + BOUNDARY,
            goals=(Goal("asgicore", "starlette-pair", 1.0),),
            unit="ms",
            peers=tuple(peer for peer in FORM_PEERS if peer != "baize"),
            note="baize takes 324 parts at most",
        ),
        Workload(
            "whole",
            "64 MiB bytes response in 64 KiB messages",
            check_whole,
            (Goal("asgicore", "raw", 1.1),),
            unit="ms",
            note="raw is the bare slicing loop; peers that send one 64 MiB message are left out",
        ),
        Workload("parts", "20,000 async parts of 64 bytes", check_parts, (Goal("asgicore", "raw", 1.1),), unit="ms"),
        Workload(
            "events",
            "20,000 server-sent events of data alone: each event",
            check_events,
            (Goal("asgicore", "sse-starlette", 0.3),),
            per=shared.EVENTS,
            own_peers=events.PEERS,
            note=EVENTS_NOTE,
        ),
        Workload(
            "named-events",
            "20,000 server-sent events with type and id: each event",
            check_events,
            (Goal("asgicore", "sse-starlette", 0.5),),
            per=shared.EVENTS,
            own_peers=events.PEERS,
            note=EVENTS_NOTE,
        ),
        Workload(
            "hello-task",
            "hello, one task per request",
            text(shared.HELLO),
            HELLO_GOALS,
            app="hello",
            is_task_each=True,
        ),
        Workload(
            "observe",
            "hello, with an observer",
            text(shared.HELLO),
            (),
            app="hello",
            own_peers=(*(PEERS[name] for name in ("raw", "asgicore")), OBSERVED),
            note="the observer is a function that does nothing",
        ),
        Workload(
            "thread",
            "sync endpoint in a thread",
            text(shared.HELLO),
            (Goal("asgicore", "falcon", 0.9),),
            note="Falcon by its sync_to_async, baize by its run_in_threadpool, raw by run_in_executor; peers that run "
            "it on the loop are left out",
        ),
        Workload(
            "sync-parts",
            "20,000 tiny parts from a synchronous generator: each part",
            check_parts,
            (Goal("asgicore", "", 5.0),),
            per=shared.PARTS,
            peers=STREAMERS,
            note=STREAMERS_NOTE,
        ),
        Workload(
            "sync-download",
            "64 MiB from a synchronous generator, 64 KiB parts",
            check_download,
            (Goal("asgicore", "starlette", 0.2),),
            unit="ms",
            peers=STREAMERS,
            note=STREAMERS_NOTE,
        ),
        Workload(
            "file",
            "64 MiB file from the page cache",
            sent_file(shared.BIG_BYTES),
            (Goal("asgicore", "starlette", 0.2), Goal("asgicore", "litestar", 1.0)),
            unit="ms",
            peers=FILERS,
            note=FILERS_NOTE,
        ),
        Workload(
            "file-small",
            "16 KiB file from the page cache",
            sent_file(shared.SMALL_FILE_BYTES),
            (Goal("asgicore", "best", 1.0),),
            peers=FILERS,
            note=FILERS_NOTE,
        ),
        Workload(
            "wsgi-hello",
            "WSGI hello",
            text(shared.HELLO),
            (Goal("asgicore", "best", 0.35),),
            own_peers=tuple(wsgi.BRIDGES.values()),
        ),
        upload(
            "wsgi-upload",
            "WSGI 64 MiB upload, read() by the application",
            (Goal("asgicore", "best", 0.7),),
            unit="ms",
            own_peers=tuple(wsgi.BRIDGES.values()),
        ),
        Workload(
            "wsgi-download",
            "WSGI 64 MiB download, streamed in 64 KiB parts",
            check_download,
            (Goal("asgicore", "best", 0.2),),
            unit="ms",
            own_peers=tuple(wsgi.BRIDGES.values()),
        ),
        Workload(
            "gzip",
            "64 KiB of JSON, compressed by gzip",
            check_gzip,
            (Goal("asgicore", "starlette", 0.25), Goal("asgicore", "starlette-5", 1.05)),
            own_peers=compression.PEERS,
            note="by default level 5 and level 9; asgicore encodes level 9 in a worker thread, Starlette on the loop",
        ),
        Workload(
            "gzip-parts",
            "the same in 20 parts from an asynchronous generator",
            check_gzip,
            (Goal("asgicore", "starlette", 0.3), Goal("asgicore", "starlette-5", 1.05)),
            own_peers=compression.PEERS,
            note="asgicore sends each part when it comes; Starlette keeps some back until more has come",
        ),
        Workload(
            "hop",
            "one hop to a worker thread and back",
            text(shared.HELLO),
            HOP_GOALS,
            own_peers=(hops.OURS, hops.ANYIO, hops.EXECUTOR),
            note=HOP_NOTE,
        ),
        Workload(
            "hop-uvloop",
            "one hop on uvloop",
            text(shared.HELLO),
            HOP_GOALS,
            loop="uvloop",
            own_peers=(hops.OURS, hops.ANYIO, hops.EXECUTOR),
            note=HOP_NOTE,
        ),
        Workload(
            "hop-trio",
            "one hop on trio",
            text(shared.HELLO),
            HOP_GOALS,
            loop="trio",
            own_peers=(hops.OURS, hops.ANYIO),
            note=HOP_NOTE,
        ),
    )
}

# What the loop changes, in one row of each kind.
ON_OTHER_LOOPS = ("hello", "inspect", "json", "count", "whole", "parts", "thread", "sync-parts")
ON_TRIO = ("raw", "asgicore", "asgicore-notify", "starlette-pair", "starlette")
OF_ASYNCIO = ("thread", "sync-parts")
"""Where raw is run_in_executor."""


def on(loop: str, name: str) -> Workload:
    """The same on another loop; on trio with the peers that know it, and without goals."""
    workload = WORKLOADS[name]
    more: dict[str, Any] = {}
    if loop == "trio":
        more = {"goals": (), "peers": tuple(peer for peer in ON_TRIO if peer != "raw" or name not in OF_ASYNCIO)}
    return replace(workload, name=f"{name}-{loop}", title=f"{workload.title}, on {loop}", app=name, loop=loop, **more)


WORKLOADS |= {row.name: row for loop in ("uvloop", "trio") for row in (on(loop, name) for name in ON_OTHER_LOOPS)}

DJANGO_GOALS = (Goal("asgicore", "django", 1 / 12),)
DJANGO: dict[str, Any] = {"own_peers": tuple(HANDLERS.values()), "is_apart": True}
DJANGO_SMALL: dict[str, Any] = {"own_peers": (*HANDLERS.values(), BARE), "is_apart": True}
BARE_NOTE = "raw is Django's own code for request, middleware, view and response, without a handler"
DEFAULT_NOTE = f"the middleware that startproject writes; {BARE_NOTE}"
QUERY_NOTE = f"{DEFAULT_NOTE}; SQLite, CONN_MAX_AGE 600, one row by its unique name"

WORKLOADS |= {
    workload.name: workload
    for workload in (
        Workload(
            "django-async", "Django, async view", text(shared.HELLO), DJANGO_GOALS, note=BARE_NOTE, **DJANGO_SMALL
        ),
        Workload(
            "django-async-uvloop",
            "Django, async view on uvloop",
            text(shared.HELLO),
            DJANGO_GOALS,
            app="django-async",
            loop="uvloop",
            note=BARE_NOTE,
            **DJANGO_SMALL,
        ),
        Workload(
            "django-async-task",
            "Django, async view, one task per request",
            text(shared.HELLO),
            (),
            app="django-async",
            is_task_each=True,
            note=f"as servers call it; {BARE_NOTE}",
            **DJANGO_SMALL,
        ),
        Workload(
            "django-sync",
            "Django, sync view",
            text(shared.HELLO),
            (Goal("asgicore", "django", 1 / 5),),
            note=BARE_NOTE,
            **DJANGO_SMALL,
        ),
        Workload(
            "django-async-default",
            "Django, async view, default middleware",
            text(shared.HELLO),
            (),
            note=DEFAULT_NOTE,
            **DJANGO_SMALL,
        ),
        Workload(
            "django-sync-default",
            "Django, sync view, default middleware",
            text(shared.HELLO),
            (),
            note=DEFAULT_NOTE,
            **DJANGO_SMALL,
        ),
        Workload(
            "django-async-query",
            "Django, async view with a query, default middleware",
            text(shared.HELLO),
            (),
            note=QUERY_NOTE,
            **DJANGO_SMALL,
        ),
        Workload(
            "django-sync-query",
            "Django, sync view with a query, default middleware",
            text(shared.HELLO),
            (),
            note=QUERY_NOTE,
            **DJANGO_SMALL,
        ),
        Workload(
            "django-file",
            "Django, FileResponse of 200 MiB",
            check_file,
            (Goal("asgicore", "django", 1 / 3),),
            unit="ms",
            **DJANGO,
        ),
        Workload(
            "django-stream",
            "Django, StreamingHttpResponse of 64 MiB, synchronous parts of 64 KiB",
            check_fresh,
            (),
            unit="ms",
            note="parts with bytes of their own; Django has all of them in memory before the first one goes out",
            **DJANGO,
        ),
        upload("django-upload", "Django, 64 MiB upload, request.body in a sync view", unit="ms", **DJANGO),
        form("django-form", "Django, 64 MiB upload, request.FILES in a sync view", unit="ms", **DJANGO),
    )
}
