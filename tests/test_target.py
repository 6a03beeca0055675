"""_target.py: path, prefix, host and URL."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from faults import linear_time
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asgicore import MalformedRequestError, TargetTooLongError
from asgicore._target import address, build_url, check_host, check_target, host_from_server, split_root_path
from asgicore.limits import DEFAULT_LIMITS, Limits

# --- the target as a whole -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "query_string"),
    [
        ("/", b""),
        ("", b""),
        ("/é/☃/\u2028", b"a=1"),
        ("/\ud800", b"\xff"),
        ("//evil.example/", b""),
        ("/a b", b"a b"),
        (None, None),
        (b"/a", "a=1"),
        (5, 5),
        ("/" + "a" * (16 * 2**10 - 1), b"a" * 64 * 2**10),
        ("/" + "é" * (8 * 2**10 - 1) + "a", b""),
        ("/" + "\x85", b""),
    ],
    ids=lambda value: repr(value)[:16],
)
def test_target_within_the_limits_passes(path: object, query_string: object) -> None:
    """What is short enough and without controls passes; what is no text is left to the accessors."""
    check_target(path, query_string, DEFAULT_LIMITS)


@pytest.mark.parametrize("code", [*range(0x20), 0x7F])
def test_target_with_control_in_the_path_is_refused(code: int) -> None:
    """No control byte reaches a log, a header or a file name by the path."""
    with pytest.raises(MalformedRequestError) as caught:
        check_target(f"/a{chr(code)}b", b"", DEFAULT_LIMITS)
    assert caught.value.field == "path"


@pytest.mark.parametrize(
    ("path", "query_string", "field"),
    [
        pytest.param("/" + "a" * 16 * 2**10, b"", "path", id="path"),
        pytest.param("/" + "é" * 8 * 2**10, b"", "path", id="path in bytes"),
        pytest.param("/" + "\ud800" * 6 * 2**10, b"", "path", id="path of surrogates"),
        pytest.param("/", b"a" * (64 * 2**10 + 1), "query_string", id="query"),
    ],
)
def test_target_over_a_limit_is_refused_with_414(path: str, query_string: bytes, field: str) -> None:
    """RFC 9110 section 15.5.15; lengths are in bytes."""
    with pytest.raises(TargetTooLongError) as caught:
        check_target(path, query_string, DEFAULT_LIMITS)
    assert (caught.value.field, caught.value.status_code) == (field, 414)


def test_target_without_limits_passes_at_any_length() -> None:
    """None lifts a limit."""
    check_target("/" * 2**20, b"a" * 2**20, Limits(max_path_bytes=None, max_query_bytes=None))


@pytest.mark.parametrize("path", ["a" * 2**22, "é" * 2**22, "a" * 2**22 + "\n", "\x85" * 2**22])
@pytest.mark.parametrize("limits", [DEFAULT_LIMITS, Limits(max_path_bytes=None)], ids=["limited", "unlimited"])
def test_target_of_hostile_length_takes_linear_time(path: str, limits: Limits) -> None:
    """Four megabytes of path are refused or passed at once."""
    with linear_time():
        with suppress(TargetTooLongError, MalformedRequestError):
            check_target(path, b"", limits)


# --- the mount point -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "root_path", "expected"),
    [
        ("/a", "", ("", "/a")),
        ("/a", "/", ("", "/a")),
        ("/a", "//", ("", "/a")),
        ("", "", ("", "")),
        ("/app/a", "/app", ("/app", "/a")),
        ("/app/a", "/app/", ("/app", "/a")),
        ("/app/a", "/app//", ("/app", "/a")),
        ("/app/", "/app", ("/app", "/")),
        ("/app/", "/app/", ("/app", "/")),
        ("/app", "/app", ("/app", "")),
        ("/app", "/app/", ("/app", "")),
        ("/app//a", "/app", ("/app", "//a")),
        ("/apple/x", "/app", ("/app", "/apple/x")),
        ("/path", "/pa", ("/pa", "/path")),
        ("/a", "/app", ("/app", "/a")),
        ("/b/app/a", "/app", ("/app", "/b/app/a")),
        ("/APP/a", "/app", ("/app", "/APP/a")),
        ("/a/b/c", "/a/b", ("/a/b", "/c")),
        ("/a/bc", "/a/b", ("/a/b", "/a/bc")),
        ("/é/a", "/é", ("/é", "/a")),
        ("app/a", "app", ("app", "/a")),
        ("", "/app", ("/app", "")),
    ],
)
def test_root_path_of_path_is_split_on_whole_segments(path: str, root_path: str, expected: tuple[str, str]) -> None:
    """A prefix of the text alone is no mount point."""
    assert split_root_path(path, root_path) == expected


@settings(max_examples=500)
@given(st.text(alphabet="/ab", max_size=10), st.text(alphabet="/ab", max_size=6))
def test_root_path_of_any_path_loses_nothing(path: str, root_path: str) -> None:
    """What is split off and what is left make up the path, and the cut is at a slash; else the path is whole."""
    prefix, rest = split_root_path(path, root_path)
    assert not prefix.endswith("/")
    assert prefix == root_path.rstrip("/")
    if rest != path:
        assert prefix + rest == path
        assert rest == "" or rest.startswith("/")
    else:
        assert not prefix or not (path == prefix or path.startswith(prefix + "/"))


# --- addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(("127.0.0.1", 80), ("127.0.0.1", 80), id="tuple"),
        pytest.param(["127.0.0.1", 80], ("127.0.0.1", 80), id="list"),
        pytest.param(("127.0.0.1", "8000"), ("127.0.0.1", 8000), id="Granian: port as text"),
        pytest.param(("/run/s.sock", None), ("/run/s.sock", None), id="unix socket"),
        pytest.param(("::1", 80), ("::1", 80), id="IPv6"),
        pytest.param(None, None, id="missing"),
        pytest.param((), None, id="empty"),
        pytest.param(("a",), None, id="one member"),
        pytest.param(("::1", 80, 0, 0), None, id="four members"),
        pytest.param("ab", None, id="text"),
        pytest.param(b"ab", None, id="bytes"),
        pytest.param({"a": 1, "b": 2}, None, id="mapping"),
        pytest.param(5, None, id="number"),
        pytest.param((None, None), None, id="no host"),
        pytest.param((b"a", 80), None, id="host as bytes"),
        pytest.param(("a", "x"), ("a", None), id="port that is no number"),
        pytest.param(("a", ""), ("a", None), id="empty port"),
        pytest.param(("a", "-1"), ("a", None), id="port with sign"),
        pytest.param(("a", "²"), ("a", None), id="port of odd digits"),
        pytest.param(("a", "9" * 5000), ("a", None), id="port of 5000 digits"),
        pytest.param(("a", 80.0), ("a", None), id="port with fraction"),
        pytest.param(("a", b"80"), ("a", None), id="port as bytes"),
    ],
)
def test_address_of_scope_entry_is_host_and_port(value: Any, expected: tuple[str, int | None] | None) -> None:
    """Tuples, lists, text ports, unix sockets; what cannot be read is unknown."""
    found = address(value)
    assert found == expected
    assert found is None or type(found) is tuple


scalar = st.one_of(st.none(), st.integers(), st.text(max_size=6), st.binary(max_size=6), st.floats(), st.booleans())


@settings(max_examples=300)
@given(
    st.one_of(
        scalar, st.lists(scalar, max_size=3), st.dictionaries(st.text(max_size=2), scalar), st.tuples(scalar, scalar)
    )
)
def test_address_of_any_value_is_an_address_or_none(value: Any) -> None:
    """Nothing a server puts there raises."""
    found = address(value)
    assert found is None or (isinstance(found[0], str) and (found[1] is None or isinstance(found[1], int)))


# --- host ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"example.com", "example.com"),
        (b" example.com\t", "example.com"),
        (b"Example.COM:8000", "Example.COM:8000"),
        (b"[::1]:8000", "[::1]:8000"),
        (b"a_b", "a_b"),
    ],
)
def test_host_that_is_one_is_kept(value: bytes, expected: str) -> None:
    """RFC 9110 section 7.2: uri-host and an optional port."""
    assert check_host(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"a/?",
        b"a/b",
        b"a?b",
        b"a#b",
        b"b@a",
        b"a b",
        b"a,b/c",
        b"a:80/x",
        b"a\\b",
        b"a\r\nb",
        b"a\n",
        b"a\x00",
        b"\xe9",
        b"",
        b" ",
        b":80",
        b"a:x",
        b"[::1",
    ],
)
def test_host_that_is_none_is_refused(value: bytes) -> None:
    """A path, a query or a user hidden in the host is a 400 (CVE-2026-48710)."""
    with pytest.raises(MalformedRequestError) as caught:
        check_host(value)
    assert caught.value.field == "host"


@settings(max_examples=500)
@given(st.one_of(st.binary(max_size=20), st.text(alphabet="a.:[]/@?%0 ", max_size=12).map(str.encode)))
@example(b"a:")
def test_host_of_any_bytes_cannot_move_the_url(value: bytes) -> None:
    """A host that passes is the authority of the URL, whole, and leaves the path where it was."""
    try:
        host = check_host(value)
    except MalformedRequestError:
        return
    url = build_url("http", host, "/path", b"/path", b"a=1")
    assert url == f"http://{host}/path?a=1"
    if "[" not in host:
        split = urlsplit(url)
        assert (split.netloc, split.path, split.query, split.username) == (host, "/path", "a=1", None)


@pytest.mark.parametrize("unit", [b"a", b"[", b":", b"%", b"a.", b"0", b" "])
def test_host_of_hostile_length_takes_linear_time(unit: bytes) -> None:
    """A megabyte of host is refused or passed at once."""
    with linear_time():
        for end in (b"", b"/"):
            with suppress(MalformedRequestError):
                check_host(unit * (2**20 // len(unit)) + end)


@pytest.mark.parametrize(
    ("server", "scheme", "expected"),
    [
        (None, "http", ""),
        (("/run/s.sock", None), "http", ""),
        (("a", 80), "http", "a"),
        (("a", 443), "https", "a"),
        (("a", 80), "ws", "a"),
        (("a", 443), "wss", "a"),
        (("a", 443), "http", "a:443"),
        (("a", 80), "https", "a:80"),
        (("a", 8000), "http", "a:8000"),
        (("a", 80), "gopher", "a:80"),
        (("::1", 80), "http", "[::1]"),
        (("::1", 8000), "http", "[::1]:8000"),
    ],
)
def test_host_from_server_is_the_listening_socket(
    server: tuple[str, int | None] | None, scheme: str, expected: str
) -> None:
    """RFC 3986 section 3.2.2: brackets around IPv6, and no default port."""
    assert host_from_server(server, scheme) == expected


# --- URL -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(("http", "a", "/b", b"/b", b""), "http://a/b", id="plain"),
        pytest.param(("https", "a:1", "/b", b"/b", b"c=d"), "https://a:1/b?c=d", id="query"),
        pytest.param(("http", "", "/b", b"/b", b"c"), "/b?c", id="relative"),
        pytest.param(("http", "a", "/é b", b"/%C3%A9%20b", b""), "http://a/%C3%A9%20b", id="raw path as it came"),
        pytest.param(("http", "a", "/a/b", b"/a%2Fb", b""), "http://a/a%2Fb", id="escaped slash stays"),
        pytest.param(("http", "a", "/é b", None, b""), "http://a/%C3%A9%20b", id="path quoted"),
        pytest.param(("http", "a", "/?#%", None, b""), "http://a/%3F%23%25", id="reserved quoted"),
        pytest.param(
            ("http", "a", "/:@!$&'()*+,;=~-._", None, b""), "http://a/:@!$&'()*+,;=~-._", id="RFC 3986 3.3 pchar"
        ),
        pytest.param(("http", "a", "/b", b"", b""), "http://a/b", id="empty raw path"),
        pytest.param(("http", "a", "/b", b"/b?c=d", b"c=d"), "http://a/b?c=d", id="raw path with query"),
        pytest.param(("http", "a", "", None, b""), "http://a", id="empty path"),
        pytest.param(
            ("http", "a", "//evil.example/", b"//evil.example/", b""), "http://a//evil.example/", id="two slashes"
        ),
    ],
)
def test_url_of_parts_is_text(arguments: tuple[str, str, str, bytes | None, bytes], expected: str) -> None:
    """The raw path is taken where the server gives it, else the decoded one is quoted again."""
    assert build_url(*arguments) == expected


@pytest.mark.parametrize(
    ("path", "raw_path", "query_string", "field"),
    [
        pytest.param("/", b"/\xff", b"", "url", id="raw path outside ASCII"),
        pytest.param("/", b"/", b"\xff", "url", id="query outside ASCII"),
        pytest.param("/\ud800", None, b"", "path", id="path without UTF-8 form"),
        pytest.param("/", b"/a b", b"", "url", id="blank in raw path"),
        pytest.param("/", b"/a\r\nb", b"", "url", id="line break in raw path"),
        pytest.param("/", b"/", b"a b", "url", id="blank in query"),
        pytest.param("/", b"/", b"a\r\nb", "url", id="line break in query"),
        pytest.param("/", b"/", b"a\x7f", "url", id="control in query"),
    ],
)
def test_url_of_parts_that_cannot_stand_in_one_is_refused(
    path: str, raw_path: bytes | None, query_string: bytes, field: str
) -> None:
    """RFC 3986 section 2: a URL is printable ASCII without blanks; nothing else is passed on as one."""
    with pytest.raises(MalformedRequestError) as caught:
        build_url("http", "a", path, raw_path, query_string)
    assert caught.value.field == field


@settings(max_examples=500)
@given(st.text(max_size=12), st.one_of(st.none(), st.binary(max_size=12)), st.binary(max_size=12))
@example("/", None, b"\r")
@example("/", b"/\n", b"")
def test_url_of_any_parts_is_printable_ascii_or_refused(path: str, raw_path: bytes | None, query_string: bytes) -> None:
    """Whatever bytes the target has, no control and no blank leaves in a URL."""
    try:
        url = build_url("http", "a", path, raw_path, query_string)
    except MalformedRequestError:
        return
    assert url.isascii()
    assert url.isprintable()
    assert " " not in url


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=12))
def test_url_of_any_path_decodes_to_it(path: str) -> None:
    """Quoting a decoded path loses nothing."""
    assert unquote(build_url("http", "a", f"/{path}", None, b"").removeprefix("http://a/"), errors="strict") == path
