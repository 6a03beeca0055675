"""Probes of what requests cost: memory, disk, threads, time, and what two hundred of them leave behind."""

from __future__ import annotations

import gc
import statistics
import threading
from collections.abc import Callable, Iterator
from time import perf_counter, process_time
from typing import Final

import anyio

from .._living import collect_cycles, descriptors, leak_of_descriptor, leak_of_task, tasks
from .exchange import Item
from .probing import Probing, body_items
from .watch import Lag, audit, traced_memory

MiB: Final = 2**20

# What an application may hold of a response that its client does not read, besides four of its largest messages.
_HELD_BYTES: Final = 8 * MiB

_UPLOAD: Final = [*([b"\0" * 65536] * 64), b"\0" * (4 * MiB)]


async def large_upload(p: Probing) -> None:
    """An upload of 8 MiB: 4 MiB in parts of 64 KiB, and 4 MiB in one part."""
    headers = [(b"content-length", b"%d" % (8 * MiB)), (b"content-type", b"application/octet-stream")]
    with audit() as seen:
        exchange = p.exchange("POST", body_items(*_UPLOAD), headers=headers)
        await p.finish(exchange)
    p.judge(exchange, "POST of 8 MiB")
    if seen.opened:
        p.found("disk-on-loop", f"an upload of 8 MiB opens {seen.opened[0]} in the thread of the event loop")


# So much of a body that announces a terabyte is sent before the client gives up.
_PATIENCE_BYTES: Final = 48 * MiB


async def body_limit(p: Probing) -> None:
    """An upload that announces a terabyte."""
    headers = [(b"content-length", b"%d" % 2**40), (b"content-type", b"application/octet-stream")]
    exchange = p.exchange("POST", _endless(), headers=headers)
    await exchange.until(lambda one: one.taken >= _PATIENCE_BYTES or one.status is not None, 2 * p.deadline)
    if exchange.status is None and exchange.taken >= _PATIENCE_BYTES:
        p.found("body-unlimited", f"an upload of a terabyte is not refused: {exchange.taken // MiB} MiB were taken")
    await exchange.until_ended(p.glance / 2)
    await p.abandon(exchange)


def _endless() -> Iterator[Item]:
    part: Item = {"type": "http.request", "body": b"\0" * 65536, "more_body": True}
    while True:
        yield part


_UPLOADS: Final = 64
"""So many clients upload at a time: more than a pool has threads."""


async def slow_uploads(p: Probing) -> None:
    """64 clients that stop in the middle of an upload; and somebody who asks meanwhile."""
    if not await p.answers("complete"):
        return
    part: Item = {"type": "http.request", "body": b"12345", "more_body": True}
    headers = [(b"content-length", b"10"), (b"content-type", b"application/octet-stream")]
    if await _is_held_by(p, [part], headers):
        # Who serves so few at a time that whole requests wait as long is told so by another probe.
        whole: Item = {"type": "http.request", "body": b"1234567890", "more_body": False}
        if not await _is_held_by(p, [whole], headers):
            p.found("uploads-hold", f"beside {_UPLOADS} uploads, a request gets no answer within {p.deadline:g} s")


async def _is_held_by(p: Probing, items: list[Item], headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a request gets no answer beside 64 others, as these."""
    others = [p.exchange("POST", items, headers=headers) for _ in range(_UPLOADS)]
    with anyio.move_on_after(2 * p.glance):
        for exchange in others:
            await exchange.until(lambda one: one.taken, p.glance)
    asked = p.exchange()
    await asked.until(lambda one: one.status is not None, p.deadline)
    await p.abandon(*others, asked)
    return asked.status is None and asked.error is None


async def slow_reader(p: Probing) -> None:
    """A client that reads the beginning of the response and then nothing for a sixth of the deadline."""
    if not await p.answers("complete", "streams", "waits"):
        return
    profile = await p.profile()
    if profile.kind == "complete" and profile.answer.size < MiB:
        p.skipped = "the answer is small"
        return
    with traced_memory() as peak:
        exchange = p.exchange(hold_at=4)
        # An application that reads all of its response before it sends any is not held at all.
        await _poll(lambda: exchange.is_held or exchange.is_ended or peak() > 8 * _HELD_BYTES, p.deadline)
        await _poll(lambda: not exchange.is_held or peak() > 8 * _HELD_BYTES, 5 * p.glance)
        taken = peak()
    if taken > _HELD_BYTES + 4 * exchange.largest:
        p.found("memory", f"{taken // MiB} MiB are held of a response whose client has read {exchange.size} bytes")
    await p.abandon(exchange)


async def _poll(is_over: Callable[[], bool], seconds: float) -> None:
    """Wait for what nobody tells of, for so long at most."""
    end = perf_counter() + seconds
    while not is_over() and perf_counter() < end:  # noqa: ASYNC110
        await anyio.sleep(0.005)


async def holds_loop(p: Probing) -> None:
    """Whether the event loop stands still for a request, for a tenth of the deadline."""
    late: list[float] = []
    for _ in range(2):
        async with Lag() as lag:
            exchange = p.exchange()
            await p.finish(exchange)
            await anyio.sleep(0.02)
        # What makes a thread late as well is the machine.
        late.append(lag.loop - lag.thread)
    if min(late) > p.deadline / 10:
        p.found("loop-held", f"a request holds the event loop for {min(late) * 1000:.0f} ms")


_AT_ONCE: Final = 100


async def concurrency(p: Probing) -> None:
    """8 requests at once, against one; and 100 at once."""
    if not await p.answers("complete"):
        return
    alone = statistics.median([await _time(p, 1) for _ in range(3)])
    began = process_time()
    together = await _time(p, 8)
    worked = process_time() - began
    if alone > 0.02 and together > 6 * alone and worked < together / 2:
        p.found("serial", f"a request takes {alone * 1000:.0f} ms, 8 at once take {together * 1000:.0f} ms")
        return
    before = threading.active_count()
    most = 0
    exchanges = [p.exchange() for _ in range(_AT_ONCE)]
    deadline = perf_counter() + 2 * p.deadline
    while not all(one.is_ended for one in exchanges) and perf_counter() < deadline:
        most = max(most, threading.active_count() - before)
        await anyio.sleep(0.002)
    if most >= _AT_ONCE * 0.8:
        p.found("threads-unlimited", f"{_AT_ONCE} requests at once start {most} threads")
    await p.abandon(*exchanges)


async def _time(p: Probing, count: int) -> float:
    """How long so many requests at once take."""
    began = perf_counter()
    exchanges = [p.exchange() for _ in range(count)]
    for exchange in exchanges:
        await exchange.until_ended(p.deadline)
    taken = perf_counter() - began
    await p.abandon(*exchanges)
    return taken


async def leaks(p: Probing) -> None:
    """Up to 100 requests, one after the other: tasks, threads, descriptors, and cycles for the garbage collector."""
    if not await p.answers("complete"):
        return
    began = perf_counter()
    # With what it does after its response.
    await _once(p)
    seconds = max(perf_counter() - began, 0.001)
    count = max(10, min(100, int(2 * p.deadline / seconds)))
    for _ in range(count // 10):
        await _once(p)
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    # What was there before is not counted when it comes to its end.
    gc.freeze()
    before, threads, files = tasks(), threading.active_count(), descriptors()
    try:
        with audit() as seen:
            for _ in range(count):
                await _once(p)
        garbage = gc.collect()
        await _once(p)
        cycles = collect_cycles(None)
    finally:
        if was_enabled:
            gc.enable()
    left = [task for task in tasks() - before if not _is_done(task)]
    more_threads = threading.active_count() - threads
    more_files = descriptors() - files
    if len(left) >= count // 2:
        p.found("leak-tasks", f"{count} requests leave {len(left)} tasks behind, as {leak_of_task(left[0])}")
    if more_threads >= count // 2:
        p.found("leak-threads", f"{count} requests leave {more_threads} threads behind")
    if len(more_files) >= count // 2:
        one = leak_of_descriptor(min(more_files))
        p.found("leak-files", f"{count} requests leave {len(more_files)} descriptors open, as {one}")
    if garbage >= count:
        # Code, or a class of some module, says more than a list or a dict.
        told = sorted(cycles, key=lambda cycle: (bool(cycle.where), "." in cycle.what))[-1:]
        text = f"{garbage / count:.0f} objects of a request wait for the garbage collector"
        p.found("leak-cycles", ", as a ".join([text, *map(str, told)]))
    if seen.threads >= count * 0.9:
        p.found("threads-started", f"{seen.threads} threads are started for {count} requests")


def _is_done(task: object) -> bool:
    done = getattr(task, "done", None)
    return bool(done and done())


async def _once(p: Probing) -> None:
    exchange = p.exchange()
    await exchange.until_ended(p.deadline)
    await p.abandon(exchange)
