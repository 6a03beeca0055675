"""_accept.py: the media type, content coding and language that a client likes best."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from asgicore import MalformedRequestError, Request, _accept
from asgicore._accept import best_encoding, best_language, best_type
from asgicore.testing import Channel, http_scope

CHROME = b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
JAVA = b"text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"

# RFC 9110 section 12.5.1, table 5, as erratum 7138 corrects its last row.
FLOWED = b"text/*;q=0.3, text/plain;q=0.7, text/plain;format=flowed, text/plain;format=fixed;q=0.4, */*;q=0.5"
WEIGHTS = {
    "text/plain;format=flowed": 1,
    "text/plain": 0.7,
    "text/html": 0.3,
    "image/jpeg": 0.5,
    "text/plain;format=fixed": 0.4,
    "text/html;level=3": 0.3,
}


@pytest.mark.untraced
@pytest.mark.parametrize("offer", WEIGHTS)
@pytest.mark.parametrize("other", WEIGHTS)
def test_type_of_the_example_of_the_rfc_is_the_one_of_more_weight(offer: str, other: str) -> None:
    """RFC 9110 section 12.5.1: the most specific range gives a type its weight; of equals the first offer is taken."""
    expected = offer if WEIGHTS[offer] >= WEIGHTS[other] else other
    assert best_type(FLOWED, (offer, other)) == expected


@pytest.mark.parametrize(
    ("value", "offers", "expected"),
    [
        pytest.param(b"", ("a/b", "c/d"), "a/b", id="nothing is anything"),
        pytest.param(b"audio/*; q=0.2, audio/basic", ("audio/mpeg", "audio/basic"), "audio/basic", id="12.5.1 audio"),
        pytest.param(
            b"text/plain; q=0.5, text/html, text/x-dvi; q=0.8, text/x-c",
            ("text/plain", "text/x-dvi", "text/x-c", "text/html"),
            "text/x-c",
            id="12.5.1 more elaborate, first of the preferred",
        ),
        pytest.param(
            b"text/plain; q=0.5, text/html, text/x-dvi; q=0.8, text/x-c",
            ("text/plain", "text/x-dvi"),
            "text/x-dvi",
            id="12.5.1 more elaborate, then dvi",
        ),
        pytest.param(CHROME, ("application/json", "text/html"), "text/html", id="Chrome wants HTML"),
        pytest.param(CHROME, ("application/json",), "application/json", id="Chrome takes JSON"),
        pytest.param(JAVA, ("application/json",), "application/json", id="Java's weight without a zero"),
        pytest.param(JAVA, ("application/json", "image/gif"), "image/gif", id="Java prefers images"),
        pytest.param(b"*/*", ("a/b", "c/d"), "a/b", id="anything: the first"),
        pytest.param(b"a/b, c/d", ("c/d", "a/b"), "c/d", id="equals: the first offer"),
        pytest.param(b"a/b", ("c/d",), None, id="nothing fits"),
        pytest.param(b"a/b", (), None, id="no offers"),
        pytest.param(b"*/*, a/b;q=0", ("a/b", "c/d"), "c/d", id="refused by q=0"),
        pytest.param(b"a/b;q=0", ("a/b",), None, id="nothing but refused"),
        pytest.param(b"a/*;q=0, a/b", ("a/c", "a/b"), "a/b", id="range refused but for one"),
        pytest.param(b"A/B;Q=0.5", ("a/b",), "a/b", id="case of type and q"),
        pytest.param(b"a/b", ("A/B",), "A/B", id="case of the offer is kept"),
        pytest.param(b"a/b;x=1", ("a/b",), None, id="range with a parameter that the offer has not"),
        pytest.param(b"a/b", ("a/b;x=1",), "a/b;x=1", id="offer with a parameter that the range has not"),
        pytest.param(b"a/b;x=1;q=0.1, a/b;x=1;y=2", ("a/b;x=1", "a/b;y=2;x=1"), "a/b;y=2;x=1", id="more parameters"),
        pytest.param(b"a/b; charset=utf-8", ("a/b",), "a/b", id="charset of an offer that names none"),
        pytest.param(b"a/b; charset=utf-8", ("a/b; charset=UTF-8",), "a/b; charset=UTF-8", id="the same charset"),
        pytest.param(b"a/b; charset=utf-8", ("a/b; charset=koi8-r",), None, id="another charset"),
        pytest.param(b'a/b;x="1"', ("a/b;x=1",), "a/b;x=1", id="quoted parameter is the same"),
        pytest.param(b'a/b;x="\\1";q=0.5', ("a/b;x=1",), "a/b;x=1", id="quoted pair"),
        pytest.param(b'a/b;x="1, c/d;q=0, ";q=0.5', ("c/d",), None, id="comma in quotes"),
        pytest.param(b"a/b;q=0.5;x=1", ("a/b;x=1",), "a/b;x=1", id="parameter after the weight"),
        pytest.param(b" , ,a/b,, ", ("a/b",), "a/b", id="5.6.1 empty members"),
        pytest.param(b"a/b;;q=0.5;", ("a/b",), "a/b", id="5.6.6 empty parameters"),
        pytest.param(b"\ta/b\t;\tq=1\t", ("a/b",), "a/b", id="blanks"),
        pytest.param(b"a/b\xff, c/d", ("a/b", "c/d"), "c/d", id="obs-text in a type"),
    ],
)
def test_type_of_field_and_offers_is_the_one_liked_best(
    value: bytes, offers: tuple[str, ...], expected: str | None
) -> None:
    """Weights, precedence and parameters as in RFC 9110 section 12.5.1."""
    assert best_type(value, offers) == expected


@pytest.mark.parametrize(
    "member",
    [
        "a",
        "a/",
        "/b",
        "*/b",
        "a/b/c",
        "a /b",
        "a/b;x",
        "a/b;x=",
        "a/b;=1",
        "a/b;x y=1",
        "a/b;x=a b",
        'a/b;x="1',
        'a/b;x="1\\',
        'a/b;x="1"2',
        "a/b;q=",
        "a/b;q=x",
        "a/b;q=1.5",
        "a/b;q=2",
        "a/b;q=-1",
        "a/b;q=+0.5",
        "a/b;q=0,5",
        "a/b;q=1e-1",
        "a/b;q=nan",
        "a/b;q=0x1",
        "a/b;q=.",
        "a/b;q = 1",
        "a/b;q=\u0661".encode().decode("latin-1"),
    ],
)
def test_member_that_is_malformed_counts_for_nothing(member: str) -> None:
    """The others do, and there is no error."""
    assert best_type(f"c/d;q=0.1, {member}".encode("latin-1"), ("a/b", "c/d")) == "c/d"


@pytest.mark.parametrize("offer", ["", "json", "a/", "*/*", "a/*", "a/b, c/d", "a b/c", "a/b;q=2", "é/b"])
def test_offer_that_is_no_media_type_is_the_callers_error(offer: str) -> None:
    """It raises whatever the client accepts, so that it is found at once."""
    for value in (b"", b"x/y"):
        with pytest.raises(ValueError, match="an offer is a media type"):
            best_type(value, (offer,))


# --- content codings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(b"", None, id="12.5.3 empty: as it is"),
        pytest.param(b"compress, gzip", "gzip", id="12.5.3 compress, gzip"),
        pytest.param(b"*", "zstd", id="12.5.3 anything: the first offer"),
        pytest.param(b"compress;q=0.5, gzip;q=1.0", "gzip", id="12.5.3 weights"),
        pytest.param(b"gzip;q=1.0, identity; q=0.5, *;q=0", "gzip", id="12.5.3 nothing else"),
        pytest.param(b"gzip, deflate, br, zstd", "zstd", id="browsers: the first offer"),
        pytest.param(b"gzip;q=1, br;q=0.9", "gzip", id="weight before the order of offers"),
        pytest.param(b"gzip;q=0", None, id="refused"),
        pytest.param(b"*;q=0", None, id="all refused"),
        pytest.param(b"identity;q=0", None, id="what is not encoded refused, and nothing else named"),
        pytest.param(b"identity;q=0, *", "zstd", id="anything but what is not encoded"),
        pytest.param(b"identity, gzip;q=0.5", None, id="better not encoded"),
        pytest.param(b"identity;q=0.5, gzip;q=0.5", "gzip", id="as good not encoded"),
        pytest.param(b"*;q=0.5, br;q=0.1, zstd;q=0.1, gzip;q=0.1", None, id="12.5.3 * stands for identity, too"),
        pytest.param(b"*, zstd;q=0", "br", id="* does not stand for what is named"),
        pytest.param(b"x-gzip", "gzip", id="8.4.1.3 the old name"),
        pytest.param(b"GZIP;Q=0.5", "gzip", id="case"),
        pytest.param(b"gzip;q=0, gzip", "gzip", id="named twice: the higher weight"),
        pytest.param(b"gzip;q=2, br;x=1, deflate", None, id="malformed members"),
        pytest.param(b"garbage", None, id="unknown"),
    ],
)
def test_encoding_of_field_is_the_one_liked_best(value: bytes, expected: str | None) -> None:
    """RFC 9110 section 12.5.3; ``None`` is content as it is, which is never an error."""
    assert best_encoding(value, ("zstd", "br", "gzip")) == expected


# --- languages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "offers", "expected"),
    [
        pytest.param(b"", ("en", "de"), "en", id="no field: the first"),
        pytest.param(b"", (), None, id="no offers"),
        pytest.param(b"da, en-gb;q=0.8, en;q=0.7", ("en", "en-GB", "da"), "da", id="RFC 9110 12.5.4 Danish"),
        pytest.param(b"da, en-gb;q=0.8, en;q=0.7", ("en-US", "en-GB"), "en-GB", id="RFC 9110 12.5.4 British"),
        pytest.param(b"da, en-gb;q=0.8, en;q=0.7", ("fr", "en-US"), "en-US", id="RFC 9110 12.5.4 other English"),
        pytest.param(b"zh-hant-cn-x-private1", ("zh", "zh-Hant"), "zh-Hant", id="RFC 4647 3.4 fallback"),
        pytest.param(b"zh-hant-cn-x-private1", ("zh-Hans", "zh"), "zh", id="RFC 4647 3.4 last fallback"),
        pytest.param(b"zh-hant-cn-x-private1", ("en",), None, id="RFC 4647 3.4 nothing found"),
        pytest.param(b"pt", ("en", "pt-BR"), "pt-BR", id="RFC 4647 3.3.1 prefix"),
        pytest.param(b"p", ("pt",), None, id="RFC 4647 3.3.1 whole subtags only"),
        pytest.param(b"de-CH, fr;q=0.9", ("fr", "de"), "de", id="fallback before the next range"),
        pytest.param(b"de, en", ("en", "de"), "de", id="equals: the client's order"),
        pytest.param(b"en;q=0, *", ("en-GB", "de"), "de", id="refused with all below"),
        pytest.param(b"en;q=0, en-GB", ("en", "en-GB"), "en-GB", id="refused but for one"),
        pytest.param(b"en, en-GB;q=0.1", ("en-GB", "en-US"), "en-US", id="longest range counts"),
        pytest.param(b"*, en;q=0.5", ("en", "de"), "de", id="* does not stand for what is named"),
        pytest.param(b"*;q=0.5, fr", ("en", "de"), "en", id="* is the first offer"),
        pytest.param(b"en;q=0", ("en",), None, id="nothing but refused"),
        pytest.param(
            b"en;q=x, de;x=1, f r, " + b"de-" * 21 + b"de, nl", ("en", "de", "nl"), "nl", id="malformed members"
        ),
        pytest.param(b"EN-us", ("en-US",), "en-US", id="case"),
        pytest.param(b"en-GB;q=0, en-GB-x-y", ("en-GB", "en"), "en", id="fallback past a refused one"),
    ],
)
def test_language_of_field_and_offers_is_the_one_liked_best(
    value: bytes, offers: tuple[str, ...], expected: str | None
) -> None:
    """Prefixes as in RFC 4647 section 3.3.1, fallback as in section 3.4."""
    assert best_language(value, offers) == expected


# --- properties ------------------------------------------------------------------------------------------

CHOICES: list[tuple[Any, tuple[str, ...]]] = [
    (best_type, ("text/html", "application/json", "a/b;c=d")),
    (best_encoding, ("zstd", "br", "gzip")),
    (best_language, ("en", "de-CH", "pt-BR")),
]

qvalues = st.from_regex(r"\A(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\Z")
"""RFC 9110 section 12.4.2."""


@given(st.lists(st.sampled_from(list('ab/*;,=q."\\ \t10-\xff')) | st.sampled_from(["a/b", ";q=0.5", ', "', "en-GB"])))
@example(["\\"])
@example(['"', "\\"])
def test_value_of_any_bytes_is_an_offer_or_none(pieces: list[str]) -> None:
    """Whatever a client sends is read, and never an error."""
    value = "".join(pieces).encode("latin-1")
    for choose, offers in CHOICES:
        assert choose(value, offers) in (None, *offers)


@pytest.mark.untraced
@given(qvalues, qvalues)
def test_weights_of_the_grammar_are_compared_as_numbers(one: str, other: str) -> None:
    """RFC 9110 section 12.4.2: 0.001 is the least that is wanted, 0 is not."""
    value = f"a/b;q={one}, c/d; q={other}".encode()
    expected = "a/b" if float(one) >= float(other) else "c/d"
    assert best_type(value, ("a/b", "c/d")) == (expected if float(one) or float(other) else None)
    value = f"x;q={one}, y ;q={other}".encode()
    expected = "x" if float(one) >= float(other) else "y"
    assert best_encoding(value, ("x", "y")) == (expected if float(one) or float(other) else None)


@given(st.text(st.sampled_from("0123456789.-+e_ x"), max_size=6))
def test_weight_that_is_none_takes_its_member_away(text: str) -> None:
    """What is no number from 0 to 1 in plain digits is no weight."""
    plain = text.strip()
    is_weight = (
        plain.count(".") <= 1
        and plain.replace(".", "").isdigit()
        and plain.partition(".")[0] in ("", "0", "1")
        and 0 <= float(plain) <= 1
    )
    assume("=" not in text)
    best = best_type(f"a/b;q={text}, c/d;q=0".encode(), ("a/b",))
    assert best == ("a/b" if is_weight and text[:1] != " " and float(plain) else None)


# Werkzeug does not know "1.", which the grammar allows.
their_qvalues = qvalues.filter(lambda text: text[-1] != ".")
types = st.sampled_from(["a/b", "a/c", "b/b", "b/c"])
ranges = st.dictionaries(types | st.sampled_from(["*/*", "a/*", "b/*"]), their_qvalues, min_size=1)


@pytest.mark.untraced
@given(ranges, st.lists(types, min_size=1, max_size=4))
def test_type_is_the_one_that_werkzeug_gives_most_weight(weights: dict[str, str], offers: list[str]) -> None:
    """Without parameters, where Werkzeug follows the RFC, both agree on the weight of each offer."""
    http = pytest.importorskip("werkzeug.http")
    accept = pytest.importorskip("werkzeug.datastructures").MIMEAccept
    value = ", ".join(f"{name};q={weight}" for name, weight in weights.items())
    theirs = http.parse_accept_header(value, accept)
    best = max(offers, key=theirs.quality)
    assert best_type(value.encode(), tuple(offers)) == (best if theirs.quality(best) else None)


codings = st.sampled_from(["gzip", "br", "zstd", "deflate"])


@pytest.mark.untraced
@given(st.dictionaries(codings | st.just("*"), their_qvalues, min_size=1), st.lists(codings, min_size=1, max_size=4))
def test_encoding_is_the_one_that_werkzeug_gives_most_weight(weights: dict[str, str], offers: list[str]) -> None:
    """Where nothing is said of content as it is, both agree on the weight of each offer."""
    http = pytest.importorskip("werkzeug.http")
    value = ", ".join(f"{name};q={weight}" for name, weight in weights.items())
    theirs = http.parse_accept_header(value)
    best = max(offers, key=theirs.quality)
    # "*" is content as it is, too, which Werkzeug does not know of.
    wanted = theirs.quality(best) and theirs.quality(best) >= float(weights.get("*", 0))
    assert best_encoding(value.encode(), tuple(offers)) == (best if wanted else None)


languages = st.sampled_from(["en", "de", "fr", "pt"])


@given(st.permutations(["en", "de", "fr", "pt"]), st.integers(1, 4), st.lists(languages, min_size=1, unique=True))
def test_language_without_subtags_is_the_one_that_werkzeug_takes(
    order: list[str], size: int, offers: list[str]
) -> None:
    """Both take the one of most weight."""
    http = pytest.importorskip("werkzeug.http")
    accept = pytest.importorskip("werkzeug.datastructures").LanguageAccept
    value = ", ".join(f"{name};q=0.{9 - index}" for index, name in enumerate(order[:size]))
    assert best_language(value.encode(), tuple(offers)) == http.parse_accept_header(value, accept).best_match(offers)


# --- attacks ---------------------------------------------------------------------------------------------

ATTACKS = [
    pytest.param(unit * (4096 // len(unit)), id=repr(unit)[:24])
    for unit in (
        b"a/b,",
        b"a,",
        b",",
        b";",
        b",;",
        b'"',
        b'"\\',
        b'\\"',
        b'"\\"',
        b'a/b;c="d",',
        b";c=d",
        b'a="\\"',
        b"a-",
        b"=",
        b"q=",
        b" ",
        b"*/*;q=0.1,",
        b"en-" * 20 + b",",
    )
] + [
    pytest.param(",".join(f"a{n}/b" for n in range(460)).encode()[:4096], id="types"),
    pytest.param(",".join(f"a{n}" for n in range(700)).encode()[:4096], id="names"),
    pytest.param(b"a/b" + "".join(f";p{n}=1" for n in range(560)).encode()[:4000], id="parameters"),
    pytest.param(b"a/b;q=0." + b"1" * 4000, id="digits"),
]


@pytest.mark.parametrize("value", ATTACKS)
@pytest.mark.parametrize(("choose", "offers"), CHOICES, ids=["type", "encoding", "language"])
def test_value_made_to_be_slow_is_read_in_less_than_five_milliseconds(
    value: bytes, choose: Callable[..., str | None], offers: tuple[str, ...]
) -> None:
    """Every scan is linear, of 4 KiB and 128 members at most."""
    spent = []
    for _ in range(5):
        began = process_time()
        choose(value, offers)
        spent.append(process_time() - began)
    assert min(spent) < 0.005


@pytest.mark.parametrize(("choose", "offers"), CHOICES, ids=["type", "encoding", "language"])
def test_value_of_more_than_4096_bytes_is_refused(choose: Callable[..., str | None], offers: tuple[str, ...]) -> None:
    """No client sends that much; the error names field and limit."""
    assert choose(b"," * 4096, offers) in (None, offers[0])
    with pytest.raises(MalformedRequestError, match="longer than 4096 bytes") as caught:
        choose(b"," * 4097, offers)
    assert caught.value.field in ("accept", "accept-encoding", "accept-language")


def test_member_after_the_128th_counts_for_nothing() -> None:
    """The time is bounded by what is looked at."""
    assert best_type(b"x/y," * 127 + b"a/b", ("a/b",)) == "a/b"
    assert best_type(b"x/y," * 128 + b"a/b", ("a/b",)) is None


def test_choice_is_made_once_for_a_value_that_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is kept by the raw value and the offers; a value longer than 512 bytes is not kept."""
    read: list[bytes] = []

    def members(value: bytes) -> Any:
        read.append(value)
        return original(value)

    original = _accept._members
    monkeypatch.setattr(_accept, "_members", members)
    for value, times in ((b"br;q=0.123", 1), (b"br;q=0.123," + b"x," * 300, 3)):
        read.clear()
        for _ in range(3):
            assert best_encoding(value, ("br",)) == "br"
        assert len(read) == times


# --- on the request --------------------------------------------------------------------------------------


def request(*headers: tuple[bytes, Any]) -> Request:
    return Request(http_scope(headers=list(headers)), Channel().receive)


def test_request_with_several_fields_reads_them_as_one_list() -> None:
    """RFC 9110 section 5.3: repeats are members of one list."""
    one = request((b"accept", b"a/b;q=0.5"), (b"ACCEPT", b"c/d"))
    assert one.preferred_type("a/b", "c/d") == "c/d"
    assert one.accepts("a/b")
    assert not one.accepts("x/y")


def test_request_without_fields_takes_the_first_offer_as_it_is() -> None:
    """Anything is accepted, no content coding is asked for, and any language is spoken."""
    one = request()
    assert one.preferred_type("a/b", "c/d") == "a/b"
    assert one.accepts("a/b")
    assert one.preferred_encoding("gzip") is None
    assert one.preferred_language("en", "de") == "en"


def test_request_with_fields_prefers_what_they_say() -> None:
    """Each method reads its own field."""
    one = request((b"accept-encoding", b"gzip"), (b"accept-language", b"de-AT"))
    assert one.preferred_encoding("br", "gzip") == "gzip"
    assert one.preferred_language("en", "de") == "de"


@pytest.mark.parametrize("headers", [[b"ac"], [(b"accept", 1)], 1, [(None, b"")]])
def test_request_with_fields_that_are_no_pairs_is_malformed(headers: Any) -> None:
    """As every accessor of the request says."""
    with pytest.raises(MalformedRequestError) as caught:
        Request(http_scope(headers=headers), Channel().receive).preferred_type("a/b")
    assert caught.value.field == "headers"
