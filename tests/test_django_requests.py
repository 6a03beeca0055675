"""Django's request made from a scope: what stock Django makes of it, and what never reaches Django."""

from __future__ import annotations

import gc
import json
from io import BytesIO
from itertools import repeat
from typing import Any

import anyio
import django
import pytest
from anyio.lowlevel import checkpoint
from django.conf import settings
from django.core.files.uploadedfile import InMemoryUploadedFile, TemporaryUploadedFile
from django.core.files.uploadhandler import FileUploadHandler, StopUpload
from django.http import HttpRequest, HttpResponse
from django.http.request import RawPostDataException
from django.test import override_settings
from django.urls import get_script_prefix, path, reverse
from django_site import (
    OURS,
    SECONDS,
    STOCK,
    Diary,
    ask,
    backends,
    receivers,
    run,
    same,
    site,
    start,
)
from faults import linear_time
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from asgicore.testing import EMPTY, Channel, Message, body_messages, check_messages, http_scope
from asgicore.testing._living import descriptors as open_files

MiB = 2**20


def stock_request(**scope: Any) -> Any:
    return STOCK.request_class(http_scope(**scope), BytesIO())


def our_request(**scope: Any) -> Any:
    return OURS.request_class(http_scope(**scope), BytesIO())


# --- META --------------------------------------------------------------------------------------------------


BROWSER = [
    (b"host", b"example.org:8000"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    (b"accept", b"text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"de,en-US;q=0.7"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"cookie", b"sessionid=abc; csrftoken=def"),
    (b"upgrade-insecure-requests", b"1"),
    (b"sec-fetch-mode", b"navigate"),
    (b"x-forwarded-for", b"10.0.0.1"),
]

SCOPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "browser": {"headers": BROWSER, "path": "/admin/login/", "query_string": b"next=/admin/"},
    "method": {"method": "post"},
    "unknown method": {"method": "PROPFIND"},
    "content": {"headers": [(b"content-length", b"12"), (b"content-type", b"text/plain; charset=latin-1")]},
    "unknown charset": {"headers": [(b"content-type", b"text/plain; charset=nonsense")]},
    "odd type": {"headers": [(b"content-type", b'multipart/form-data; boundary="a;b"; x')]},
    "repeated": {"headers": [(b"x-one", b"1"), (b"x-two", b"2"), (b"x-one", b"3"), (b"x-one", b"")]},
    "one cookie": {"headers": [(b"cookie", b"a=1; b=2")]},
    "underscores": {"headers": [(b"x_real_user", b"evil"), (b"x-real-user", b"good"), (b"x_only", b"evil")]},
    "latin-1": {"headers": [(b"x-word", "h\xf6her".encode("latin-1")), (b"x-utf", "\u20ac".encode())]},
    "empty value": {"headers": [(b"x-word", b""), (b"", b"no name")]},
    "no headers": {"headers": []},
    "headers left out": {"headers": ...},
    "query": {"query_string": b"a=1&b=%20&a=2"},
    "query of utf-8": {"query_string": "h\xf6her=\u20ac".encode()},
    "query as text": {"query_string": "a=1&\xfc=2"},
    "no query": {"query_string": ...},
    "no scheme": {"scheme": ...},
    "https": {"scheme": "https"},
    "no client": {"client": None},
    "client left out": {"client": ...},
    "no server": {"server": None},
    "server left out": {"server": ...},
    "lists": {"client": ["10.0.0.9", 99], "server": ["10.0.0.1", 443]},
    "ipv6": {"client": ("::1", 5), "server": ("::1", 80)},
    "server port as text": {"server": ("127.0.0.1", "8000")},
    "no root": {"root_path": None},
    "root left out": {"root_path": ...},
    "root": {"root_path": "/app", "path": "/app/inner"},
    "unicode path": {"path": "/h\xf6her/\u20ac/"},
    "odd path": {"path": "/a//b/../c;d?e#f"},
    "star": {"path": "*", "method": "OPTIONS"},
    "tls": {"headers": [(b"x-forwarded-proto", b"https")], "extensions": {"tls": {}}},
    "http 1.0": {"http_version": "1.0", "headers": []},
    "http 2": {"http_version": "2", "headers": [(b"host", b"h2.example"), (b"te", b"trailers")]},
}


@pytest.mark.parametrize("name", SCOPES)
def test_request_of_a_scope_is_that_of_stock_django(name: str) -> None:
    """Every variable, and every attribute that code reads."""
    theirs, mine = stock_request(**SCOPES[name]), our_request(**SCOPES[name])
    assert mine.META == theirs.META
    for attribute in ("path", "path_info", "script_name", "method", "content_type", "content_params", "encoding"):
        assert getattr(mine, attribute) == getattr(theirs, attribute), attribute
    assert vars(mine).keys() ^ vars(theirs).keys() <= {"_set_content_type_params"}
    assert mine.scheme == theirs.scheme
    assert mine.COOKIES == theirs.COOKIES
    assert mine.GET == theirs.GET
    assert mine.get_full_path() == theirs.get_full_path()
    assert mine.is_secure() == theirs.is_secure()
    assert dict(mine.headers) == dict(theirs.headers)
    assert mine.accepts("text/html") == theirs.accepts("text/html")
    assert repr(mine).replace("ASGIRequest", "") == repr(theirs).replace("ASGIRequest", "")


NAMES = st.sampled_from(
    [b"host", b"cookie-two", b"accept", b"x-a", b"x-b", b"content-type", b"content-length", b"x_a", b"a_", b"if-match"]
) | st.text("abcxyz019-_!#$%&'*+.^`|~", min_size=1, max_size=8).map(str.encode)


@given(
    headers=st.lists(st.tuples(NAMES, st.binary(max_size=12)), max_size=12),
    query=st.text(max_size=20).map(lambda text: text.encode(errors="replace")),
    path=st.text(max_size=20),
    client=st.none() | st.tuples(st.text(max_size=5), st.integers(0, 65535)),
    server=st.none() | st.tuples(st.text(max_size=5), st.integers(0, 65535)),
)
@hypothesis_settings(max_examples=300)
def test_request_of_any_scope_is_that_of_stock_django(
    headers: Any, query: bytes, path: str, client: Any, server: Any
) -> None:
    """Whatever a server that keeps to the specification gives, the variables are Django's."""
    # Difference "proxy": no variable that programs take for their own setting.
    headers = [(name, value) for name, value in headers if name != b"proxy"]
    scope = {"headers": headers, "query_string": query, "path": path, "client": client, "server": server}
    assert our_request(**scope).META == stock_request(**scope).META


def test_request_of_a_unix_socket_has_no_port() -> None:
    """Difference "addresses": a unix socket has no port, for which stock Django writes ``None``."""
    meta = our_request(server=("/run/site.sock", None), client=None).META
    assert (meta["SERVER_NAME"], meta["SERVER_PORT"]) == ("/run/site.sock", "0")
    assert "REMOTE_ADDR" not in meta


@pytest.mark.parametrize("value", ["text", b"bytes", 3, ("one",), ("a", 1, 2), (None, 80), {}, {"a": 1}])
def test_request_of_an_address_that_is_none_is_one_without(value: Any) -> None:
    """Difference "addresses": what cannot be read is as if it were missing."""
    meta = our_request(server=value, client=value).META
    assert (meta["SERVER_NAME"], meta["SERVER_PORT"]) == ("unknown", "0")
    assert "REMOTE_ADDR" not in meta


def test_request_of_a_client_whose_port_is_text_has_a_number() -> None:
    """Difference "addresses": some servers give text, which views would have to expect."""
    meta = our_request(client=("10.0.0.1", "50000"), server=("10.0.0.2", "8000")).META
    assert (meta["REMOTE_PORT"], meta["SERVER_PORT"]) == (50000, "8000")


def test_request_without_host_and_with_a_unix_socket_has_a_url_all_the_same() -> None:
    """``build_absolute_uri`` and ``get_port`` do not fail on it."""
    request = our_request(server=("/run/site.sock", None), headers=[(b"host", b"example.org")])
    assert request.build_absolute_uri("/x") == "http://example.org/x"
    assert request.get_port() == "0"


def test_request_of_a_proxy_field_has_no_variable_that_programs_obey() -> None:
    """Difference "proxy": HTTP_PROXY would be taken for a setting (CVE-2016-1000110)."""
    assert "HTTP_PROXY" not in our_request(headers=[(b"proxy", b"http://evil")]).META


@pytest.mark.parametrize(
    "fields",
    [
        [b"a=1", b"b=2"],
        [b"a=1;", b"b=2; ", b"c=3"],
        [b"", b"a=1"],
        [b"a=1; ; b=2"],
        [b"a=1", b";", b"b=2"],
        [b"crumb%d=%d" % (number, number) for number in range(50)],
    ],
)
def test_request_of_several_cookie_fields_has_all_cookies(fields: list[bytes]) -> None:
    """HTTP/2 splits them; they are joined by a semicolon, as in Django 6.1 (difference "6.1")."""
    scope = {"headers": [(b"cookie", field) for field in fields]}
    mine = our_request(**scope)
    whole = our_request(headers=[(b"cookie", b"; ".join(field.rstrip(b"; ") for field in fields))])
    assert mine.COOKIES == whole.COOKIES
    assert "," not in mine.META["HTTP_COOKIE"]
    if django.VERSION >= (6, 1):
        theirs = stock_request(**scope)
        assert mine.META == theirs.META
        assert mine.COOKIES == theirs.COOKIES


# Root, path: what is taken off, by whole segments alone.
ROOTS = [
    ("", "/", "/"),
    ("", "/x", "/x"),
    ("", "", ""),
    ("/", "/x", "/x"),
    ("/", "/", "/"),
    ("/app", "/app", ""),
    ("/app", "/app/", "/"),
    ("/app", "/app/x", "/x"),
    ("/app", "/apple/x", "/apple/x"),
    ("/app", "/ap", "/ap"),
    ("/app", "/other", "/other"),
    ("/app", "/APP/x", "/APP/x"),
    ("/app", "//app/x", "//app/x"),
    ("/app", "/app//x", "//x"),
    ("/app/", "/app/x", "/x"),
    ("/app/", "/app", ""),
    ("/app/", "/app/", "/"),
    ("/app/sub", "/app/sub/x", "/x"),
    ("/app/sub", "/app/x", "/app/x"),
    ("/h\xf6her", "/h\xf6her/x", "/x"),
]


@pytest.mark.parametrize(("root", "whole", "rest"), ROOTS)
def test_request_of_root_and_path_takes_off_whole_segments(root: str, whole: str, rest: str) -> None:
    """Twenty pairs, as in Django 6.1 (difference "6.1"); on that it is compared."""
    scope = {"root_path": root, "path": whole}
    mine = our_request(**scope)
    assert (mine.path, mine.path_info, mine.script_name) == (whole, rest, root)
    assert (mine.META["PATH_INFO"], mine.META["SCRIPT_NAME"]) == (rest, root)
    if django.VERSION >= (6, 1):
        theirs = stock_request(**scope)
        assert mine.META == theirs.META
        assert (mine.path_info, mine.path) == (theirs.path_info, theirs.path)


def test_request_with_a_forced_script_name_has_that() -> None:
    """``FORCE_SCRIPT_NAME`` goes before what the server says."""
    with override_settings(FORCE_SCRIPT_NAME="/forced"):
        for scope in ({"path": "/forced/x"}, {"path": "/forced/x", "root_path": "/app"}):
            theirs, mine = stock_request(**scope), our_request(**scope)
            assert mine.META == theirs.META
            assert (mine.path_info, mine.script_name) == ("/x", "/forced")


@backends
@pytest.mark.parametrize("forced", [None, "/forced"])
async def test_request_sets_the_script_prefix(forced: str | None) -> None:
    """``reverse`` in views, asynchronous or not, begins with it; one request leaves nothing to the next."""

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(f"{get_script_prefix()} {reverse('named')}")

    async def async_view(request: HttpRequest) -> HttpResponse:
        return view(request)

    patterns = [path("named/", view, name="named"), path("async/", async_view)]
    with site(patterns=patterns, FORCE_SCRIPT_NAME=forced):
        for where in ("/named/", "/async/"):
            for root in ("/app", "", "/other"):
                prefix = forced or root
                outcome = await same(root_path=root, path=prefix + where)
                assert outcome.body.decode() == f"{prefix}/ {prefix}/named/"


# --- what never reaches Django -----------------------------------------------------------------------------


REFUSED: dict[str, tuple[int, dict[str, Any]]] = {
    "fields": (431, {"headers": [(b"x-%d" % number, b"1") for number in range(200)]}),
    "repeats": (431, {"headers": [(b"x-one", b"1")] * 10_000}),
    "bytes": (431, {"headers": [(b"x-long", b"x" * 70_000)]}),
    "path": (414, {"path": "/" + "x" * 20_000}),
    "query": (414, {"query_string": b"a=" + b"x" * 70_000}),
    "controls": (400, {"path": "/a\x00b"}),
    "newline": (400, {"path": "/a\r\nb"}),
    "two hosts": (400, {"headers": [(b"host", b"a"), (b"host", b"b")]}),
    "two lengths": (400, {"headers": [(b"content-length", b"1"), (b"content-length", b"2")]}),
    "no pair": (400, {"headers": [(b"x",)]}),
    "path without a UTF-8 form": (400, {"path": "/\ud800", "raw_path": None}),
}


@backends
@pytest.mark.parametrize("name", REFUSED)
async def test_request_that_the_engine_refuses_reaches_nobody(name: str) -> None:
    """Difference "limits": a clear status, no signal, no view, and nothing received."""
    status, scope = REFUSED[name]
    diary = Diary()
    with site(lambda request: diary.note("view")), receivers(diary), linear_time():
        outcome = await run(OURS(), Channel(), diary, **scope)
    assert outcome.raised is None
    assert outcome.status == status
    assert outcome.is_ended
    assert diary.events == []
    assert outcome.channel.received == 0


LENGTHS = [b"-1", b"+1", b"1_0", b"0x1", b"1.0", b"", b" ", b"\xb2", b"1,2", b"1 1", b"9" * 5000, b"a", b"1\x00"]


@backends
@pytest.mark.parametrize("value", LENGTHS)
async def test_request_of_malformed_content_length_is_400(value: bytes) -> None:
    """Never a 500, and never a guess (SECURITY row 8)."""
    with site(lambda request: HttpResponse(request.body)):
        outcome = await ask(OURS(), body_messages(b"x"), method="POST", headers=[(b"content-length", value)])
    assert outcome.status == 400
    check_messages([{**m, "headers": []} if "headers" in m else m for m in outcome.channel.sent], complete=True)


@backends
async def test_request_of_headers_that_are_an_iterator_is_served() -> None:
    """The specification allows any iterable; it is read once."""
    with site(lambda request: HttpResponse(request.headers["X-One"])):
        outcome = await ask(OURS(), headers=iter([(b"x-one", b"1")]))
    assert outcome.body == b"1"


@backends
async def test_request_of_a_query_that_is_no_utf8_is_django_s_400(caplog: pytest.LogCaptureFixture) -> None:
    """Django's own answer, and its record in the log."""
    with site(lambda request: HttpResponse()):
        outcome = await same(query_string=b"a=\xff")
    assert outcome.status == 400
    assert len({record.getMessage() for record in caplog.records}) == 1


@backends
@example(path="\ud800", query=b"", headers=[])
@given(
    path=st.text(max_size=12, alphabet=st.characters()),
    query=st.binary(max_size=12),
    headers=st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=6),
)
@hypothesis_settings(max_examples=100)
async def test_request_of_any_bytes_is_answered(path: str, query: bytes, headers: Any) -> None:
    """No path, query or field is a 500 or an error for the server: the view or a 4xx."""
    diary = Diary()
    with site(lambda request: HttpResponse(repr((request.GET, request.COOKIES, request.path_info)))), receivers(diary):
        outcome = await run(OURS(), Channel(), diary, path=path, query_string=query, headers=headers)
    assert outcome.raised is None
    assert outcome.status == 200 or 400 <= (outcome.status or 0) < 500
    assert outcome.is_ended
    assert diary.count("started") == diary.count("finished")


@backends
async def test_request_with_a_name_that_passes_for_another_is_refused_where_that_is_asked_for() -> None:
    """400, and neither Django nor its signals hear of it."""
    diary = Diary()
    with site(lambda request: HttpResponse()), receivers(diary):
        handler = OURS(underscores="refuse")
        outcome = await run(handler, Channel(), diary, headers=[(b"x-real-user", b"good"), (b"x_real_user", b"evil")])
        assert outcome.status == 400
        assert b"'x_real_user' has an underscore" in outcome.body
        assert diary.events == []
        assert (await ask(handler, headers=[(b"x-real-user", b"good")])).status == 200


# --- the size of the body ----------------------------------------------------------------------------------


@backends
async def test_request_that_declares_too_much_is_refused_before_anything_is_received() -> None:
    """413, the connection is closed, and neither Django nor its signals hear of it."""
    diary = Diary()
    with site(lambda request: HttpResponse()), receivers(diary):
        handler = OURS(max_body_bytes=1000)
        outcome = await run(
            handler, Channel(body_messages(b"x")), diary, method="POST", headers=[(b"content-length", b"1001")]
        )
    assert outcome.status == 413
    assert outcome.channel.received == 0
    assert outcome.header("connection") == ["close"]
    assert diary.events == []


@backends
@pytest.mark.parametrize("declares", [True, False])
async def test_request_that_sends_too_much_is_refused_one_message_later(declares: bool) -> None:
    """What comes is counted, whatever was declared (SECURITY row 19)."""
    parts = [b"x" * 400] * 100
    headers = [(b"content-length", b"1000")] if declares else []
    before = open_files()
    diary = Diary()
    with site(lambda request: HttpResponse()), receivers(diary):
        outcome = await run(
            OURS(max_body_bytes=1000), Channel(body_messages(*parts)), diary, method="POST", headers=headers
        )
    assert outcome.status == 413
    assert outcome.channel.received == 3
    assert diary.events == []
    assert open_files() == before


@backends
async def test_request_of_exactly_the_largest_size_is_served() -> None:
    """The limit itself is allowed."""
    with site(lambda request: HttpResponse(str(len(request.body)))):
        outcome = await ask(
            OURS(max_body_bytes=1000),
            body_messages(b"x" * 600, b"y" * 400),
            method="POST",
            headers=[(b"content-length", b"1000")],
        )
    assert outcome.body == b"1000"


@backends
@pytest.mark.parametrize("size", [10, 100])
async def test_request_without_a_limit_of_ours_is_left_to_django(size: int) -> None:
    """By default nothing is refused early; ``DATA_UPLOAD_MAX_MEMORY_SIZE`` is Django's, with its status."""

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(len(request.body)))

    with site(view, DATA_UPLOAD_MAX_MEMORY_SIZE=50):
        outcome = await same(body_messages(b"x" * size), method="POST", headers=[(b"content-length", b"%d" % size)])
    assert outcome.status == (200 if size < 50 else 400)


@backends
@pytest.mark.parametrize("declared", [1, 5, 100])
async def test_request_whose_length_is_not_what_was_declared_is_as_under_stock_django(declared: int) -> None:
    """What comes and what was declared are the server's to compare."""
    with site(lambda request: HttpResponse(request.body)):
        outcome = await same(body_messages(b"12345"), method="POST", headers=[(b"content-length", b"%d" % declared)])
    assert outcome.status == 200


@backends
@pytest.mark.parametrize("setting", ["DATA_UPLOAD_MAX_NUMBER_FIELDS", "DATA_UPLOAD_MAX_NUMBER_FILES"])
async def test_request_of_too_many_fields_or_files_is_django_s_400(setting: str) -> None:
    """Django's limits of numbers apply as ever."""
    files = setting.endswith("FILES")
    limits: dict[str, Any] = {setting: 3}
    body = multipart({f"n{number}": (f"f{number}", b"x") if files else b"x" for number in range(5)})
    with site(lambda request: HttpResponse(str(len(request.POST) + len(request.FILES))), **limits):
        outcome = await same(body_messages(body), method="POST", headers=form_headers(body))
    assert outcome.status == 400
    with site(lambda request: HttpResponse(str(len(request.GET))), DATA_UPLOAD_MAX_NUMBER_FIELDS=3):
        assert (await same(query_string=b"a=1&b=2&c=3&d=4")).status == 400
        assert (await same(query_string=b"a=1&b=2&c=3")).status == 200


# --- reading the body --------------------------------------------------------------------------------------


BOUNDARY = b"----boundary"


def multipart(fields: dict[str, Any]) -> bytes:
    """A form; a file is given as (name, content)."""
    lines = []
    for name, value in fields.items():
        more = b""
        if isinstance(value, tuple):
            more, value = b'; filename="%s"\r\nContent-Type: text/plain' % value[0].encode(), value[1]
        lines.append(
            b'--%s\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
            % (BOUNDARY, name.encode(), more, value)
        )
    return b"".join(lines) + b"--%s--\r\n" % BOUNDARY


def form_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"multipart/form-data; boundary=" + BOUNDARY),
        (b"content-length", b"%d" % len(body)),
    ]


def cut(body: bytes, size: int = 100) -> list[Message]:
    return body_messages(*(body[start : start + size] for start in range(0, len(body), size)))


READERS: dict[str, Any] = {
    "body": lambda request: [request.body, request.body],
    "read": lambda request: [request.read(10), request.read(), request.read()],
    "readline": lambda request: [request.readline(), request.readline()],
    "readlines": lambda request: request.readlines()[:3],
    "iterate": lambda request: [line for number, line in enumerate(request) if number < 3],
    "body, then POST": lambda request: [request.body, dict(request.POST)],
    "POST": lambda request: [dict(request.POST), dict(request.POST)],
    "POST, then body": lambda request: [dict(request.POST), _error(lambda: request.body)],
    "read, then body": lambda request: [request.read(3), _error(lambda: request.body)],
    "read, then POST": lambda request: [request.read(3), dict(request.POST)],
    "json": lambda request: [_error(lambda: json.loads(request.body))],
}


def _error(function: Any) -> Any:
    try:
        return function()
    except (RawPostDataException, ValueError) as exc:
        return type(exc).__name__


@backends
@pytest.mark.parametrize("threshold", [10, 10_000], ids=["spooled", "in memory"])
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("reader", READERS)
async def test_request_body_is_read_as_under_stock_django(reader: str, is_async: bool, threshold: int) -> None:
    """Every way to read it, from a file or from memory, whether it came at once or in parts."""

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(repr(READERS[reader](request)))

    async def async_view(request: HttpRequest) -> HttpResponse:
        return view(request)

    body = b"first=line\n&second=2\n&third=3\n" + b"&more=x\n" * 50
    headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"content-length", b"%d" % len(body))]
    with site(async_view if is_async else view, FILE_UPLOAD_MAX_MEMORY_SIZE=threshold):
        for messages in (body_messages(body), cut(body), [{"type": "http.request"}]):
            outcome = await same(messages, method="POST", headers=headers)
            assert outcome.status == 200


@backends
@pytest.mark.parametrize("threshold", [10, 1000, 10**6], ids=["spooled", "files spooled", "in memory"])
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_request_files_are_those_of_stock_django(is_async: bool, threshold: int) -> None:
    """Small uploads in memory, large ones in files of Django's own; all are closed, nothing is left on the disk."""
    kinds: list[Any] = []

    def view(request: HttpRequest) -> HttpResponse:
        kinds.append([type(file) for file in request.FILES.values()])
        found = [(file.name, file.size, file.content_type, file.read()) for file in request.FILES.values()]
        return HttpResponse(repr((dict(request.POST), found)))

    async def async_view(request: HttpRequest) -> HttpResponse:
        return view(request)

    body = multipart({"field": "h\xf6her".encode(), "small": ("a.txt", b"small"), "large": ("b.txt", b"x" * 5000)})
    before = open_files()
    with site(async_view if is_async else view, FILE_UPLOAD_MAX_MEMORY_SIZE=threshold):
        outcome = await same(cut(body, 700), method="POST", headers=form_headers(body))
    assert outcome.status == 200
    assert b"x" * 5000 in outcome.body
    assert kinds[0] == kinds[1]
    assert kinds[1][1] is (InMemoryUploadedFile if threshold == 10**6 else TemporaryUploadedFile)
    gc.collect()  # request and files refer to each other, as under stock Django
    assert open_files() == before


@backends
async def test_request_files_that_a_handler_stops_are_as_under_stock_django() -> None:
    """A site's own upload handler, chosen in the view, may stop the upload."""

    class Stop(FileUploadHandler):
        def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes:
            raise StopUpload(connection_reset=True)

        def file_complete(self, file_size: int) -> None: ...

    def view(request: HttpRequest) -> HttpResponse:
        request.upload_handlers.insert(0, Stop(request))
        return HttpResponse(repr((dict(request.POST), dict(request.FILES))))

    body = multipart({"file": ("a.txt", b"x" * 5000), "after": b"1"})
    with site(view):
        outcome = await same(cut(body), method="POST", headers=form_headers(body))
    assert outcome.status == 200


MALFORMED = {
    "truncated": multipart({"a": ("f", b"x" * 500)})[:-100],
    "no boundary": b"x" * 500,
    "bad base64": multipart({"a": b"b"})
    .replace(b"form-data;", b"form-data;", 1)
    .replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!", 1),
    "empty": b"",
    "long headers": multipart({"a" * 20_000: b"b"}),
}


@backends
@pytest.mark.parametrize("name", MALFORMED)
async def test_request_of_a_malformed_form_is_as_under_stock_django(name: str) -> None:
    """Django's parser gets what came, with its true length, and answers."""
    body = MALFORMED[name]
    with site(lambda request: HttpResponse(repr((dict(request.POST), dict(request.FILES))))):
        outcome = await same(cut(body, 5000), method="POST", headers=form_headers(body))
    assert (outcome.status or 0) < 500


@backends
async def test_request_body_larger_than_memory_is_spooled_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that the view reads is on the disk, and is gone afterwards."""
    seen = []

    def view(request: HttpRequest) -> HttpResponse:
        stream = request._stream
        seen.append(getattr(stream, "name", None) is not None)
        assert stream.tell() == 0
        size = 0
        while part := request.read(65536):
            size += len(part)
        return HttpResponse(str(size))

    before = open_files()
    with site(view):
        outcome = await ask(OURS(), body_messages(*[b"x" * 65536] * 100), method="POST")
    assert outcome.body == b"%d" % (100 * 65536)
    assert seen == [True]
    assert open_files() == before
    assert settings.FILE_UPLOAD_MAX_MEMORY_SIZE == 2621440


@backends
async def test_request_body_threshold_follows_an_overridden_setting() -> None:
    """A test that overrides ``FILE_UPLOAD_MAX_MEMORY_SIZE`` has it honoured by a handler that is there already."""
    kinds = []

    def view(request: HttpRequest) -> HttpResponse:
        kinds.append(type(request._stream).__name__)
        return HttpResponse()

    with site(view):
        handler = OURS()
        await ask(handler, body_messages(b"x" * 100, b"y"), method="POST")
        with override_settings(FILE_UPLOAD_MAX_MEMORY_SIZE=50):
            await ask(handler, body_messages(b"x" * 100, b"y"), method="POST")
        await ask(handler, body_messages(b"x" * 100, b"y"), method="POST")
    assert kinds[0] == kinds[2] == "BytesIO"
    assert kinds[1] != "BytesIO"


# --- messages ----------------------------------------------------------------------------------------------


@backends
@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("more", [True, False])
async def test_request_messages_after_the_body_that_say_nothing_are_ignored(count: int, more: bool) -> None:
    """Difference "extra": the view goes on, whatever else of ``http.request`` comes."""
    received = anyio.Event()

    async def view(request: HttpRequest) -> HttpResponse:
        await received.wait()
        return HttpResponse(request.body)

    async def on_receive(index: int) -> None:
        if index >= count:
            received.set()

    extra = {"type": "http.request", "body": b"", "more_body": more}
    channel = Channel([*body_messages(b"body"), *[extra] * count], on_receive=on_receive)
    with site(view):
        outcome = await run(OURS(), channel, method="POST")
    assert outcome.body == b"body"
    assert outcome.raised is None


@backends
async def test_request_messages_without_end_let_the_view_go_on() -> None:
    """A server that repeats itself for ever does not hold up the loop."""

    async def view(request: HttpRequest) -> HttpResponse:
        for _ in range(5):
            await checkpoint()
        return HttpResponse(b"done")

    with site(view):
        outcome = await ask(OURS(), repeat(EMPTY))
    assert outcome.body == b"done"


@backends
async def test_request_message_of_another_kind_is_an_assertion_as_under_stock_django() -> None:
    """What is no message of HTTP is the server's mistake: Django's own error, and the view is cancelled."""
    diary = Diary()

    async def view(request: HttpRequest) -> HttpResponse:
        try:
            await anyio.sleep_forever()
        finally:
            diary.note("view left")
        raise AssertionError

    with site(view), receivers(diary):
        outcome = await run(OURS(), Channel([EMPTY, {"type": "websocket.connect"}]), diary)
    assert isinstance(outcome.raised, AssertionError)
    assert "Invalid ASGI message after request body: websocket.connect" in str(outcome.raised)
    assert diary.events == ["started", "view left", "finished"]


SHAPES: list[Any] = [
    {"type": "http.request", "body": "text"},
    {"type": "http.request", "body": 3},
    {"type": "http.request", "more_body": "yes"},
    {"type": "http.nonsense"},
    {},
]


@backends
@pytest.mark.parametrize("message", SHAPES)
async def test_request_message_that_is_malformed_is_an_error_for_the_server(message: Any) -> None:
    """Nothing is guessed, and no view runs on half a body."""
    diary = Diary()
    with site(lambda request: diary.note("view")), receivers(diary):
        outcome = await run(OURS(), Channel([message]), diary, method="POST")
    assert outcome.raised is not None
    assert outcome.channel.sent == []
    assert diary.count("view") == 0
    assert diary.count("started") == diary.count("finished")


@backends
@pytest.mark.parametrize(
    "message", [{"type": "http.request"}, {"type": "http.request", "body": None, "more_body": None}]
)
async def test_request_message_with_missing_keys_is_an_empty_body(message: Any) -> None:
    """The specification makes both keys optional."""
    with site(lambda request: HttpResponse(b"got " + request.body)):
        outcome = await ask(OURS(), [message], method="POST")
    assert outcome.body == b"got "


@backends
async def test_request_body_that_stalls_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    """``body_receive_timeout``, which Django has and never reads, ends an upload that does not go on."""

    class Impatient(OURS.request_class):
        body_receive_timeout = 0.02

    class Handler(OURS):
        request_class = Impatient

    diary = Diary()
    with site(lambda request: HttpResponse()), receivers(diary):
        request = start(run(Handler(), Channel(body_messages(b"x", b"y")[:1]), diary, method="POST"))
        with anyio.fail_after(SECONDS):
            outcome = await request
    assert OURS.request_class.body_receive_timeout == 60
    assert outcome.status == 408
    assert diary.events == []


def test_requests_have_no_default_that_is_shared() -> None:
    """Two requests have nothing in common."""
    one, other = our_request(), our_request()
    assert one.META is not other.META
    one.META["X"] = "1"
    assert "X" not in other.META
