"""_dates.py: HTTP dates in all three forms, and the one that is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import formatdate, parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgicore._dates import build_http_date, parse_http_date, to_timestamp

MOMENT = 784111777  # the date that RFC 9110 writes in three forms


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(b"Sun, 06 Nov 1994 08:49:37 GMT", MOMENT, id="IMF-fixdate"),
        pytest.param(b"Sunday, 06-Nov-94 08:49:37 GMT", MOMENT, id="rfc850-date"),
        pytest.param(b"Sun Nov  6 08:49:37 1994", MOMENT, id="asctime-date"),
        pytest.param(b"Wed Nov 16 08:49:37 1994", MOMENT + 864000, id="asctime-date of two digits"),
        pytest.param(b"Wednesday, 16-Nov-94 08:49:37 GMT", MOMENT + 864000, id="the longest form"),
        pytest.param(b"Mon, 06 Nov 1994 08:49:37 GMT", MOMENT, id="day of the week is not held against the date"),
        pytest.param(b"Sat, 31 Dec 2016 23:59:60 GMT", 1483228800, id="leap second"),
        pytest.param(b"Thu, 29 Feb 2024 00:00:00 GMT", 1709164800, id="leap day"),
        pytest.param(b"Thu, 01 Jan 1970 00:00:00 GMT", 0, id="the beginning"),
        pytest.param(b"Wed, 29 Feb 2023 00:00:00 GMT", None, id="no such day"),
        pytest.param(b"Mon, 01 Jan 0000 00:00:00 GMT", None, id="no such year"),
        pytest.param(b"Mon, 00 Jan 2024 00:00:00 GMT", None, id="day zero"),
        pytest.param(b"Sun, 06 Nov 1994 24:00:00 GMT", None, id="hour 24"),
        pytest.param(b"Sun, 06 Nov 1994 08:60:00 GMT", None, id="minute 60"),
        pytest.param(b"Sun, 06 Nov 1994 08:49:61 GMT", None, id="second 61"),
        pytest.param(b"Sun, 06 Nov 1994 08:49:37 UTC", None, id="another zone"),
        pytest.param(b"Sun, 06 Nov 1994 08:49:37 +0000", None, id="a zone in digits"),
        pytest.param(b"Sun, 6 Nov 1994 08:49:37 GMT", None, id="day of one digit"),
        pytest.param(b"sun, 06 nov 1994 08:49:37 gmt", None, id="case counts"),
        pytest.param(b"Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT", None, id="two"),
        pytest.param("Sun, 0\u0666 Nov 1994 08:49:37 GMT".encode(), None, id="digits of other scripts"),
        pytest.param(b"784111777", None, id="a number"),
        pytest.param(b"", None, id="empty"),
    ],
)
def test_parse_date_of_table_gives_seconds_or_none(value: bytes, expected: int | None) -> None:
    """RFC 9110 section 5.6.7."""
    assert parse_http_date(value) == expected


@pytest.mark.parametrize(
    ("digits", "now", "year"),
    [("94", 2026, 1994), ("26", 2026, 2026), ("76", 2026, 2076), ("77", 2026, 1977), ("00", 2051, 2100)],
)
def test_parse_date_with_year_of_two_digits_is_at_most_fifty_years_ahead(digits: str, now: int, year: int) -> None:
    """RFC 9110 section 5.6.7: what seems more than 50 years in the future is in the past."""
    value = f"Sunday, 06-Nov-{digits} 08:49:37 GMT".encode()
    assert parse_http_date(value, now) == to_timestamp(datetime(year, 11, 6, 8, 49, 37))


@given(st.integers(-62135596800, 253402300799))
def test_built_date_is_read_back_the_same(seconds: int) -> None:
    """Over the whole calendar."""
    assert parse_http_date(build_http_date(seconds).encode()) == seconds


@given(st.integers(0, 4102444800))
def test_built_date_is_that_of_the_standard_library(seconds: int) -> None:
    """With ``email.utils`` as the oracle, in both directions."""
    built = build_http_date(seconds)
    assert built == formatdate(seconds, usegmt=True)
    assert parsedate_to_datetime(built) == datetime.fromtimestamp(seconds, UTC)


@given(st.binary(max_size=40))
def test_parse_date_of_any_bytes_raises_nothing(value: bytes) -> None:
    """What clients send is a date, or none."""
    assert parse_http_date(value) is None or isinstance(parse_http_date(value), int)


@pytest.mark.parametrize("seconds", [253402300800, -62135596801, 1e20, float("inf"), float("nan")])
def test_build_date_beyond_the_calendar_raises_value_error(seconds: float) -> None:
    """The error names the years that there are."""
    with pytest.raises(ValueError, match=r"years 1 to 9999"):
        build_http_date(seconds)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (datetime(1994, 11, 6, 8, 49, 37), MOMENT),
        (datetime(1994, 11, 6, 8, 49, 37, 999999, tzinfo=UTC), MOMENT),
        (datetime(1994, 11, 6, 9, 49, 37, tzinfo=timezone(timedelta(hours=1))), MOMENT),
        (datetime(1969, 12, 31, 23, 59, 59, 500000), -1),
        (MOMENT + 0.9, MOMENT),
        (-0.5, -1),
    ],
)
def test_timestamp_is_in_whole_seconds_of_utc(moment: datetime | float, expected: int) -> None:
    """Fractions are cut off towards the past; without a zone it is UTC."""
    assert to_timestamp(moment) == expected
