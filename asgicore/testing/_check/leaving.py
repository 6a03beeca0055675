"""Probes with clients that leave, at every stage, however the server tells; and with calls that are cancelled."""

from __future__ import annotations

from typing import Final

from anyio import move_on_after

from .exchange import Exchange, Item
from .probing import Probing, body_items, describe

_ABORTS: Final = 16
"""So many clients leave: more than a small pool has threads."""


async def leave_before(p: Probing) -> None:
    """The client has left before anything of the request was read."""
    for method in ("GET", "POST"):
        exchange = p.exchange(method, [])
        exchange.leave()
        if not await p.judge_left(exchange, f"{method}, left before the first message"):
            return


async def truncated(p: Probing) -> None:
    """An upload that is cut off: 5 of 10 bytes came."""
    headers = [(b"content-length", b"10"), (b"content-type", b"application/octet-stream")]
    part: Item = {"type": "http.request", "body": b"12345", "more_body": True}
    for raises in (False, True):
        exchange = p.exchange("POST", [part], headers=headers, send_raises=raises)
        await exchange.until(lambda one: one.taken, 2 * p.glance)
        exchange.leave()
        is_ended = await p.judge_left(exchange, "an upload cut off after 5 of 10 bytes")
        status = exchange.told_status
        if status is not None and status < 400 and await _waits_for_body(p, part, headers):
            p.found("truncated-answered", f"an upload cut off after 5 of 10 bytes is answered with {status}")
        if not is_ended:
            return


async def _waits_for_body(p: Probing, part: Item, headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether nothing is answered while the rest of an upload may come: else the body is not used."""
    exchange = p.exchange("POST", [part], headers=headers)
    await exchange.until(lambda one: one.status is not None, p.grace)
    await p.abandon(exchange)
    return exchange.status is None


async def leave_waiting(p: Probing) -> None:
    """The client leaves when the request is whole and the answer has not begun."""
    for method in ("GET", "POST"):
        exchange = p.exchange(method)
        await exchange.until(lambda one: one.status is not None, p.glance)
        if exchange.is_ended or exchange.status is not None:
            await p.finish(exchange)
            p.skipped = "the answer begins at once"
            return
        exchange.leave()
        if not await p.judge_left(exchange, f"{method}, left while the answer is made"):
            return


# What the server claims, and whether its send() raises. gunicorn claims 2.4, which says that send() should raise, and
# says nothing.
_SERVERS: Final = (("2.3", False), ("2.4", True), ("2.4", False))


async def leave_streaming(p: Probing) -> None:
    """The client leaves while the body is sent, under servers whose send() raises and others whose does not."""
    if not await p.answers("streams"):
        return
    for version, raises in _SERVERS:
        scope = {"asgi": {"version": "3.0", "spec_version": version}}
        exchange = p.exchange(scope=scope, send_raises=raises)
        await exchange.until(lambda one: one.parts >= 3, p.deadline)
        exchange.leave()
        how = "raises" if raises else "says nothing"
        if not await p.judge_left(exchange, f"left while streaming, spec_version {version}, send() {how}"):
            return


async def leave_after(p: Probing) -> None:
    """The client leaves with the last byte; servers whose receive() gives nothing after it, or cannot be cancelled."""
    if not await p.answers("complete"):
        return
    exchange = p.exchange()
    await exchange.until(lambda one: one.is_complete, p.deadline)
    exchange.leave()
    await p.judge_left(exchange, "left after the last byte")
    deaf = p.exchange(is_deaf=True)
    await deaf.until(lambda one: one.is_complete, p.deadline)
    # What a call does after its response, it may do; what it waits for in receive() need not come.
    if deaf.is_complete and not await deaf.until_ended(p.grace) and deaf.receivers:
        deaf.leave()
        if await deaf.until_ended(p.glance):
            p.found("waits-for-disconnect", f"the response is complete, and the call waits {p.grace:g} s later")
    await p.let_end(deaf)
    odd = p.exchange(is_deaf=True, gives_in=True)
    if await odd.until_ended(p.grace) and odd.error is not None:
        p.found("late-disconnect", f"receive() is cancelled and gives a disconnect: raises {describe(odd.error)}")
    await p.let_end(odd)


async def send_fails(p: Probing) -> None:
    """The client leaves at the first, second, third or fourth call of send(), which raises OSError or says nothing."""
    if not await p.answers("complete", "streams", "waits"):
        return
    for number in range(1, 5):
        for raises in (True, False):
            exchange = p.exchange(send_raises=raises, fail_at=number)
            await exchange.until(lambda one: one.has_left or one.is_answered, p.deadline)
            if not exchange.has_left:
                await p.finish(exchange)
                return
            how = "raises" if raises else "says nothing"
            if not await p.judge_left(exchange, f"send() {how} from call {number} on"):
                return


async def cancel(p: Probing) -> None:
    """The call is cancelled from outside where it waits for the first time, for the second, up to the eighth."""
    if not await p.answers("complete", "streams", "waits"):
        return
    for number in range(1, 9):
        exchange = p.exchange("POST", body_items(b"abc", b"def"), cancel_at=number)
        await exchange.until(lambda one: one.is_cut, 2 * p.glance)
        if not exchange.is_cut:
            # It waits for something that does not come.
            exchange.cancel()
        await exchange.until_ended(p.grace)
        what = f"at await {number}" if exchange.is_cut else "where it waits"
        await _judge_cancelled(p, exchange, f"cancelled {what}")
        if not exchange.is_cut or p.is_spoilt:
            return


async def _judge_cancelled(p: Probing, exchange: Exchange, what: str) -> None:
    if not exchange.is_ended:
        p.found("ignores-cancel", f"{what}: the call goes on {p.grace:g} s later")
        await p.abandon(exchange)
    elif exchange.error is not None:
        p.found("cancel-relabelled", f"{what}: raises {describe(exchange.error)}")
    elif not (exchange.call.was_cancelled or exchange.was_whole):
        ends = "answers" if exchange.is_complete else "returns without a word, and without a whole response"
        p.found("cancel-relabelled", f"{what}: {ends}")


async def aborts(p: Probing) -> None:
    """16 clients leave in the middle of their responses; then somebody asks."""
    if not await p.answers("complete", "streams"):
        return
    # Half of them under a server whose send() raises.
    gone = [p.exchange(send_raises=number % 2 == 0, fail_at=2) for number in range(_ABORTS)]
    with move_on_after(p.deadline):
        for exchange in gone:
            await exchange.until(lambda one: one.has_left, p.deadline)
    for exchange in gone:
        exchange.leave()
    healthy = p.exchange()
    await healthy.until(lambda one: one.status is not None, p.deadline)
    if healthy.status is None and not healthy.is_ended:
        p.found("pool-stuck", f"after {_ABORTS} clients that left, a request gets no answer within {p.deadline:g} s")
    await healthy.until_ended(p.glance / 2)
    await p.abandon(healthy, *gone)
