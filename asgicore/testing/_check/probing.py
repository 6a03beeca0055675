"""What a probe works with: one application, one path, bounds for every wait, and a place for what is found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from anyio import move_on_after

from .._lint.lint import Application
from .._lint.rules import Finding
from .._requests import http_scope
from .exchange import Answer, Exchange, Item
from .rules import CHECK_RULES

__all__ = ["Kind", "Probing", "Profile", "Session", "body_items", "profile_from"]

ENOUGH_PARTS: Final = 32
ENOUGH_BYTES: Final = 4 * 2**20
"""Who has seen so much of a response and not its end takes it for one that streams."""


_HEADERS: Final = [(b"host", b"localhost:8000"), (b"user-agent", b"asgicore-check"), (b"accept", b"*/*")]

Kind: TypeAlias = Literal["complete", "streams", "waits", "fails"]

_SKIPPED: Final[dict[Kind, str]] = {
    "complete": "a GET is answered at once",
    "streams": "a GET is answered with a stream",
    "waits": "a GET is not answered",
    "fails": "a GET fails",
}


class Profile(NamedTuple):
    """What a path answers to a plain GET."""

    kind: Kind
    """``"streams"`` has begun and goes on; ``"waits"`` had not begun when the deadline was over; ``"fails"`` raised."""
    answer: Answer
    seconds: float


def profile_from(given: list[Any]) -> Profile:
    """A profile that has been JSON on its way."""
    kind, answer, seconds = given
    return Profile(kind, Answer(*answer), seconds)


def body_items(*parts: bytes, pause: float = 0.0) -> list[Item]:
    """``http.request`` messages with these parts, the last one ending the body."""
    items: list[Item] = []
    for index, part in enumerate(parts):
        if index and pause:
            items.append(pause)
        items.append({"type": "http.request", "body": part, "more_body": index < len(parts) - 1})
    return items


@dataclass
class Session:
    """An application whose lifespan runs."""

    app: Application
    deadline: float = 3.0
    """How long an answer may take, in seconds."""
    grace: float = 1.0
    """How long a call may go on when its client has left, in seconds."""
    state: dict[str, Any] | None = None
    glance: float | None = None
    """How long what comes at once or not at all may take, in seconds; a thirtieth of the deadline."""
    profiles: dict[str, Profile] = field(default_factory=dict[str, "Profile"])
    """What is known of paths already."""


class Probing:
    """One probe of one path."""

    def __init__(self, session: Session, path: str) -> None:
        self.session = session
        self.path = path
        self.deadline = session.deadline
        self.grace = session.grace
        self.glance = session.glance or session.deadline / 30
        self.findings: list[Finding] = []
        self.is_spoilt = False
        """Whether a call had to be cut short, so that what it leaves behind says nothing."""
        self.skipped: str | None = None
        """Why there was nothing to try."""
        self._ending: list[Exchange] = []

    def found(self, rule: str, message: str) -> None:
        """Report, each rule once: one finding of a kind is enough to act on."""
        self._add(CHECK_RULES[rule].broken(message, self.path))

    def _add(self, finding: Finding) -> None:
        if finding.rule not in {one.rule for one in self.findings}:
            self.findings.append(finding)

    def take_over(self, exchange: Exchange) -> None:
        """Report what the lint has found of the application."""
        for finding in exchange.findings:
            if finding.by == "application" and finding.rule != "raised":
                self._add(finding)

    # --- requests -----------------------------------------------------------------------------------------

    def exchange(
        self,
        method: str = "GET",
        items: Iterable[Item] | None = None,
        *,
        headers: Iterable[tuple[bytes, bytes]] = (),
        scope: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Exchange:
        """Send a request.

        Args:
            method: Its method.
            items: What ``receive`` gives; an empty body if left out.
            headers: Further fields.
            scope: Changes to the scope.
            options: As for ``Exchange``.
        """
        changes = {"headers": [*_HEADERS, *headers], "state": dict(self.session.state or {}), **(scope or {})}
        whole = http_scope(method, self.path, **changes)
        return Exchange(self.session.app, whole, body_items(b"") if items is None else items, **options)

    async def finish(self, exchange: Exchange) -> None:
        """Let a response come to its end, and leave where it has none."""

        known = self.session.profiles.get(self.path)
        # Nobody waits for the deadline again and again.
        is_slow = known is not None and known.kind == "waits"
        await exchange.until(_is_enough, self.glance if is_slow else self.deadline)
        # What has sent much may be about to end.
        if not exchange.is_ended and not (_is_enough(exchange) and await exchange.until_ended(self.glance / 2)):
            await self.let_end(exchange)

    async def let_end(self, exchange: Exchange) -> None:
        """Leave a call to what it does after its response; what has not sent all of it is abandoned.

        Work after the response is legal, and none of the client's: other requests need not wait for it.
        """
        if exchange.is_answered and not exchange.is_ended:
            self._ending.append(exchange)
        else:
            await self.abandon(exchange)

    async def settle(self) -> None:
        """Wait for what goes on after its response, as long as an answer may take."""
        await _until_ended(self._ending, self.deadline)
        for exchange in self._ending:
            self.judge(exchange, "what goes on after a response")
        await self.abandon(*self._ending)

    async def abandon(self, *exchanges: Exchange) -> bool:
        """Leave, and cancel what does not end then; returns whether all have ended."""
        open_ones = [one for one in exchanges if not one.is_ended]
        for exchange in open_ones:
            exchange.leave()
            exchange.release()
        await _until_ended(open_ones, self.grace)
        for exchange in open_ones:
            exchange.cancel()
        await _until_ended(open_ones, self.grace)
        self.is_spoilt = self.is_spoilt or bool(open_ones)
        return all(one.is_ended for one in open_ones)

    async def ask(self, method: str = "GET", items: Iterable[Item] | None = None, **options: Any) -> Answer | None:
        """The answer to a request, ``None`` if there is none that is whole."""
        exchange = self.exchange(method, items, **options)
        await self.finish(exchange)
        if exchange.error is not None or not exchange.is_complete:
            return None
        return exchange.answer

    async def ask_twice(self, method: str = "GET", items: list[Item] | None = None, **options: Any) -> Answer | None:
        """The answer to a request, ``None`` if it is another one each time."""
        first = await self.ask(method, items, **options)
        return first if first is not None and first == await self.ask(method, items, **options) else None

    async def answers(self, *kinds: Kind) -> bool:
        """Whether a plain GET gives an answer of such a kind; where it does not, the probe is skipped."""
        kind = (await self.profile()).kind
        if kind not in kinds:
            self.skipped = _SKIPPED[kind]
        return kind in kinds

    async def profile(self) -> Profile:
        """What a plain GET gives; asked once."""
        known = self.session.profiles.get(self.path)
        if known is None:
            known = self.session.profiles[self.path] = await self._look()
        return known

    async def _look(self) -> Profile:
        kind: Kind
        began = perf_counter()
        exchange = self.exchange()
        await exchange.until(_is_enough, self.deadline)
        if not exchange.is_ended:
            await exchange.until_ended(self.glance / 2)
        seconds = perf_counter() - began
        if exchange.error is not None:
            kind = "fails"
        elif exchange.is_complete:
            kind = "complete"
            await self.let_end(exchange)
        elif exchange.is_ended:
            kind = "fails"
        else:
            kind = "streams" if exchange.parts else "waits"
            before = self.is_spoilt
            self.is_spoilt = not await self.abandon(exchange) or before
        return Profile(kind, exchange.answer, seconds)

    # --- judging ------------------------------------------------------------------------------------------

    def judge(self, exchange: Exchange, what: str) -> None:
        """Report what is wrong with the answer to a request that is as it should be."""
        if exchange.has_left:
            # By whoever asked, who had seen enough; what becomes of that is for other probes.
            exchange.findings[:] = [one for one in exchange.findings if not one.rule.endswith("-after-disconnect")]
        self.take_over(exchange)
        if exchange.error is not None and not exchange.has_left:
            self.found("request-raised", f"{what} raises {describe(exchange.error)}")
        elif exchange.status == 500:
            self.found("answered-500", f"{what} is answered with 500")

    async def judge_left(self, exchange: Exchange, what: str) -> bool:
        """Report what is wrong with a call whose client has left.

        Returns:
            Whether it has ended or does what follows its response; where it has not, there is no need to try that
            again in another way.
        """
        await exchange.until(lambda one: one.is_answered, self.grace)
        is_ended = exchange.is_ended or await exchange.until_ended(self.glance if exchange.is_answered else 0)
        if exchange.is_answered:
            await self.let_end(exchange)
        elif not is_ended:
            rule = "trusts-send" if exchange.is_misled else "works-on"
            self.found(rule, f"{what}: the call goes on {self.grace:g} s later")
            if not await self.abandon(exchange):
                self.found("ignores-cancel", f"{what}: the call goes on when it is cancelled, too")
        self.take_over(exchange)
        error = exchange.error
        # What is raised at whoever asks is told by another probe.
        if error is not None and not isinstance(error, OSError) and (await self.profile()).kind != "fails":
            self.found("disconnect-raised", f"{what}: {describe(error)} reaches the server")
        if exchange.told_status is not None and exchange.told_status >= 500:
            self.found("disconnect-as-error", f"{what}: answered with {exchange.told_status}")
        return is_ended or exchange.is_answered


async def _until_ended(exchanges: list[Exchange], seconds: float) -> None:
    """Wait until all have ended, for so long at most."""
    with move_on_after(seconds):
        for exchange in exchanges:
            await exchange.until_ended(seconds)


def _has_enough(exchange: Exchange) -> bool:
    return exchange.parts >= ENOUGH_PARTS or exchange.size >= ENOUGH_BYTES


def _is_enough(exchange: Exchange) -> bool:
    return exchange.is_complete or _has_enough(exchange)


def describe(error: BaseException) -> str:
    """An exception in a line."""
    text = ""
    with suppress(Exception):
        text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:100]}" if text else type(error).__name__
