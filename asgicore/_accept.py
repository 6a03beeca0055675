"""Content negotiation: which of the offers the client likes best.

Sources: RFC 9110 sections 12.4 and 12.5, RFC 4647 sections 3.3.1 and 3.4.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final, TypeAlias

from ._grammar import TOKEN
from .errors import MalformedRequestError

__all__ = ["best_encoding", "best_language", "best_type"]

Choose: TypeAlias = Callable[[bytes, tuple[str, ...]], str | None]

# Far above what browsers send (135 bytes); a longer value is an attack on the parser.
_MAX_BYTES: Final = 4096

# More than any client sends; what comes after them counts for nothing. 128 take 0.4 ms, 2,048 would take 6.
_MAX_MEMBERS: Final = 128

# RFC 5646 section 4.4.1: the longest tag without private or repeated subtags has 35 characters.
_MAX_TAG: Final = 64

# What is kept: so many answers for each field, of values up to this length: half a megabyte at most.
_KEPT: Final = 256
_KEPT_BYTES: Final = 512

# RFC 9110 section 12.4.2: qvalue = ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] ). Java's own client leaves the
# zero out ("q=.2"), others give more than three digits.
_QVALUE: Final = re.compile(r"0?\.[0-9]+|0\.?|1(?:\.0*)?")

# A member, or a parameter, with its quoted-strings (RFC 9110 section 5.6.4), which may hold the separator. One that
# does not end goes on to the end of the value. All repetitions are possessive: no character is looked at twice.
_QUOTED: Final = r'"(?:[^"\\]|\\.)*+"?+'
_MEMBER: Final = re.compile(rf'(?:[^",]|{_QUOTED})++', re.DOTALL)
_PARAMETER: Final = re.compile(rf'(?:[^";]|{_QUOTED})++', re.DOTALL)
_WHOLE_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Member:
    """One member of a list with weights: its value in lower case, its parameters, its weight."""

    value: str
    parameters: dict[str, str]
    weight: float


def _remembered(field: str) -> Callable[[Choose], Choose]:
    """Keep what a function has chosen, for values as browsers send them; refuse those that no client sends."""

    def decorate(choose: Choose) -> Choose:
        kept = lru_cache(_KEPT)(choose)

        def chosen(value: bytes, offers: tuple[str, ...]) -> str | None:
            if len(value) > _MAX_BYTES:
                raise MalformedRequestError(field, f"longer than {_MAX_BYTES} bytes")
            return (kept if len(value) <= _KEPT_BYTES else choose)(value, offers)

        chosen.__doc__ = choose.__doc__
        return chosen

    return decorate


# --- lists with weights ----------------------------------------------------------------------------------


def _members(value: bytes) -> list[_Member]:
    """The members of a field, those that are malformed left out."""
    text = value.decode("latin-1").lower()
    members: list[_Member] = []
    pieces: list[str] = _MEMBER.findall(text) if '"' in text else text.split(",")
    for member in islice(filter(None, pieces), _MAX_MEMBERS):
        name, *rest = _PARAMETER.findall(member) if '"' in member else member.split(";")
        if (parameters := _parameters(rest)) is not None:
            weight = parameters.pop("q", "1")
            if _QVALUE.fullmatch(weight):
                members.append(_Member(name.strip(), parameters, float(weight)))
    return members


def _parameters(pieces: list[str]) -> dict[str, str] | None:
    """The parameters by name; ``None`` if one is malformed.

    "q" is the weight wherever it stands (RFC 9110 section 12.5.1).
    """
    parameters: dict[str, str] = {}
    for piece in filter(None, pieces):  # RFC 9110 section 5.6.6: a parameter may be empty
        name, _, text = piece.strip().partition("=")
        if _WHOLE_QUOTED.fullmatch(text):
            text = _ESCAPED.sub(r"\1", text[1:-1])
        elif not TOKEN.fullmatch(text):
            return None
        if not TOKEN.fullmatch(name):
            return None
        parameters.setdefault(name, text)
    return parameters


# --- media types -----------------------------------------------------------------------------------------


@_remembered("accept")
def best_type(value: bytes, offers: tuple[str, ...]) -> str | None:
    """The media type that the client likes best, of equals the first; ``None`` if it takes none of them.

    Args:
        value: The ``accept`` field, its repeats joined by commas; if it has no member that can be read: anything.
        offers: Media types, with parameters or without.

    Raises:
        MalformedRequestError: The field is longer than 4096 bytes.
        ValueError: An offer is no media type.
    """
    ranges = [member for member in _members(value) if _is_range(member.value)] or [_Member("*/*", {}, 1.0)]
    best, best_weight = None, 0.0
    for offer in offers:
        weight = _weight_of_type(_offered(offer), ranges)
        if weight > best_weight:
            best, best_weight = offer, weight
    return best


def _is_range(value: str) -> bool:
    kind, _, subtype = value.partition("/")
    return bool(TOKEN.fullmatch(kind) and TOKEN.fullmatch(subtype)) and (kind != "*" or subtype == "*")


def _offered(offer: str) -> _Member:
    members = _members(offer.encode())
    if len(members) == 1 and _is_range(members[0].value) and "*" not in members[0].value:
        return members[0]
    raise ValueError(f"an offer is a media type such as 'text/html', not {offer!r}")


def _weight_of_type(offer: _Member, ranges: list[_Member]) -> float:
    """The weight of the most specific range that the offer falls in (RFC 9110 section 12.5.1); 0 if there is none."""
    kind = offer.value.partition("/")[0]
    found = (-1, -1, 0.0)
    for one in ranges:
        if one.value == offer.value:
            depth = 2
        elif one.value == f"{kind}/*":
            depth = 1
        elif one.value == "*/*":
            depth = 0
        else:
            continue
        if _has_parameters(offer.parameters, one.parameters):
            found = max(found, (depth, len(one.parameters), one.weight))
    return found[2]


def _has_parameters(offered: dict[str, str], wanted: dict[str, str]) -> bool:
    # Clients ask for "application/json; charset=utf-8", though JSON has no such parameter: an offer that does not name
    # its charset has the one that is asked for.
    return all(offered.get(name, text if name == "charset" else None) == text for name, text in wanted.items())


# --- content codings -------------------------------------------------------------------------------------

# RFC 9110 section 8.4.1.3: "x-gzip" is to be taken for "gzip"; section 8.4.1.1 says so of "compress".
_ALIASES: Final = {"x-gzip": "gzip", "x-compress": "compress"}


@_remembered("accept-encoding")
def best_encoding(value: bytes, offers: tuple[str, ...]) -> str | None:
    """The content coding that the client likes best, of equals the first; ``None`` if none is better.

    Args:
        value: The ``accept-encoding`` field, its repeats joined by commas.
        offers: Content codings, in lower case.

    Raises:
        MalformedRequestError: The field is longer than 4096 bytes.

    ``None`` also where the client refuses what is not encoded: RFC 9110 section 12.5.3 lets a server send it still,
    which is more use than an error.
    """
    weights: dict[str, float] = {}
    for member in _members(value):
        name = _ALIASES.get(member.value, member.value)
        if not member.parameters:
            weights[name] = max(weights.get(name, 0.0), member.weight)
    others = weights.get("*", 0.0)
    best, best_weight = None, 0.0
    for offer in offers:
        weight = weights.get(offer, others)
        if weight > best_weight:
            best, best_weight = offer, weight
    return None if best_weight < weights.get("identity", others) else best


# --- languages -------------------------------------------------------------------------------------------


@_remembered("accept-language")
def best_language(value: bytes, offers: tuple[str, ...]) -> str | None:
    """The language that the client likes best; ``None`` if it knows none of them.

    Args:
        value: The ``accept-language`` field, its repeats joined by commas; if it has no member that can be read: any.
        offers: Language tags (RFC 5646).

    Raises:
        MalformedRequestError: The field is longer than 4096 bytes.

    A range stands for the tags that begin with it (RFC 4647 section 3.3.1): "pt" for "pt-BR". One that stands for
    none of the offers is cut from its end until it is one of them (section 3.4): "de-CH" to "de".
    """
    weights: dict[str, float] = {}
    for member in _members(value):
        if len(member.value) <= _MAX_TAG and TOKEN.fullmatch(member.value) and not member.parameters:
            weights.setdefault(member.value, member.weight)
    if not weights:
        return offers[0] if offers else None
    # Each offer that is not refused, with the range that it falls in: the longest one.
    falls_in = {offer: next((tag for tag in _cut(offer.lower()) if tag in weights), "*") for offer in offers}
    open_to = {offer: found for offer, found in falls_in.items() if weights.get(found, 1.0)}
    for wanted in sorted(filter(weights.__getitem__, weights), key=weights.__getitem__, reverse=True):
        for offer, found in open_to.items():
            if found == wanted:
                return offer
        for tag in _cut(wanted):
            for offer in open_to:
                if offer.lower() == tag:
                    return offer
    return None


def _cut(tag: str) -> list[str]:
    """The tag, and what is left of it when one subtag after the other is taken from its end."""
    subtags = tag.split("-")
    return ["-".join(subtags[:size]) for size in range(len(subtags), 0, -1)]
