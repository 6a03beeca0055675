"""HTTP dates: read in all three forms, written in the one that is in use.

Source: RFC 9110 section 5.6.7.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from math import floor
from time import gmtime
from typing import Final

__all__ = ["build_http_date", "parse_http_date", "to_timestamp"]

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_DAY: Final = f"(?:{'|'.join(_DAYS)})"
_LONG_DAY: Final = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_MONTH: Final = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME: Final = "(?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9]):(?P<second>[0-5][0-9]|60)"

# The day of the week is not held against the date: it tells nothing that the date does not.
_FORMS: Final = tuple(
    re.compile(form.encode())
    for form in (
        # IMF-fixdate: Sun, 06 Nov 1994 08:49:37 GMT
        f"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT",
        # rfc850-date: Sunday, 06-Nov-94 08:49:37 GMT
        f"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT",
        # asctime-date: Sun Nov  6 08:49:37 1994
        f"{_DAY} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
)

# The longest is "Wednesday, 06-Nov-94 08:49:37 GMT".
_MAX_LENGTH: Final = 33

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_http_date(value: bytes, year_now: int | None = None) -> int | None:
    """A point in time in seconds since 1970; ``None`` if it is no HTTP date.

    Args:
        value: The field value, without blanks around it.
        year_now: What years of two digits are near to; the current year if ``None``.
    """
    if len(value) > _MAX_LENGTH:
        return None
    for form in _FORMS:
        found = form.fullmatch(value)
        if found is not None:
            break
    else:
        return None
    year, second = int(found["year"]), int(found["second"])
    if len(found["year"]) == 2:
        # More than 50 years in the future is the most recent year in the past with the same digits.
        now = gmtime().tm_year if year_now is None else year_now
        year += (now + 50) // 100 * 100
        if year > now + 50:
            year -= 100
    try:
        moment = datetime(
            year,
            _MONTHS.index(found["month"].decode()) + 1,
            int(found["day"]),
            int(found["hour"]),
            int(found["minute"]),
            min(second, 59),
            tzinfo=UTC,
        )
    except ValueError:  # 31 February
        return None
    # A leap second, which the calendar does not know, is the one after.
    return to_timestamp(moment) + (second == 60)


def to_timestamp(moment: datetime | float) -> int:
    """Whole seconds since 1970; a ``datetime`` without a zone is taken as UTC."""
    if isinstance(moment, datetime):
        aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return (aware - _EPOCH).days * 86400 + (aware - _EPOCH).seconds
    return floor(moment)


def build_http_date(seconds: float) -> str:
    """The IMF-fixdate of a point in time in seconds since 1970; fractions are cut off.

    Raises:
        ValueError: It is beyond the calendar, which ends with the year 9999.
    """
    try:
        moment = _EPOCH + timedelta(seconds=floor(seconds))
    except (OverflowError, ValueError):
        raise ValueError(f"{seconds!r} seconds since 1970 is beyond the calendar (years 1 to 9999)") from None
    # Not strftime(), which speaks the language of the machine.
    return (
        f"{_DAYS[moment.weekday()]}, {moment.day:02} {_MONTHS[moment.month - 1]} {moment.year:04} {moment:%H:%M:%S} GMT"
    )
