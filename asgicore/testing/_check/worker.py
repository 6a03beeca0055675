"""The process in which the application runs: one probe after the other, each told to the parent in a line of JSON.

An application may block the event loop, ignore every cancellation or pin threads for ever. The parent bounds all of
that from outside; what is left of a probe that went wrong ends with this process, and a new one goes on.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from time import perf_counter
from typing import Any, Final, TextIO, cast

import anyio

from .._lint.lint import Application, lint
from .._lint.rules import RULES, Finding
from .._living import leak_of_task, tasks
from .exchange import Call
from .probes import LIFESPAN, PROBES
from .probing import Probing, Session, profile_from
from .watch import STDLIB, LeftOpen, busy_threads

__all__ = ["Lifespan", "load", "main", "run_probe", "work"]

Tell = Callable[[dict[str, Any]], None]


class TargetError(ValueError):
    """What the command line names is not there; a traceback has no more to tell."""


def load(target: str, directory: str) -> Application:
    """Import ``module:attribute``, the module from ``directory`` first.

    Raises:
        TargetError: ``target`` is spelt otherwise, or names nothing that can be called.
        Exception: What the module raises when it is imported.
    """
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise TargetError(f"{target!r} is not module:application")
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        app: Any = importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module}.".startswith(f"{exc.name}."):
            raise  # the module is there, and lacks another
        raise TargetError(str(exc)) from None
    for name in attribute.split("."):
        if not hasattr(app, name):
            raise TargetError(f"{module} has no attribute {attribute!r}")
        app = getattr(app, name)
    is_callable = callable(app)
    if not is_callable:
        raise TargetError(f"{target} is {type(app).__name__}, which cannot be called")
    return cast("Application", app)


class Lifespan:
    """The lifespan of the application, around all probes."""

    def __init__(self, app: Application, deadline: float) -> None:
        self.findings: list[Finding] = []
        self.failure: str | None = None
        """Why the application does not start, if it says so."""
        self.state: dict[str, Any] = {}
        self._deadline = deadline
        self._events = iter(["lifespan.startup", "lifespan.shutdown"])
        self._stop = anyio.Event()
        self._answers = 0
        self._answered = anyio.Event()
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        self._call = Call(self._serve(lint(app, collect=self.findings), scope))

    async def _serve(self, app: Application, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self.receive, self.send)
        finally:
            self._answered.set()

    async def receive(self) -> dict[str, Any]:
        event = next(self._events, None)
        if event != "lifespan.startup":
            await self._stop.wait()
        if event is None:  # there is nothing after the shutdown
            await anyio.sleep_forever()
        return {"type": event}

    async def send(self, message: dict[str, Any]) -> None:
        self._answers += 1
        if message.get("type") == "lifespan.startup.failed":
            self.failure = str(message.get("message", ""))
        self._answered.set()

    async def start(self) -> None:
        """Wait until the application has started, or has said that it does not know lifespans."""
        with anyio.move_on_after(self._deadline) as scope:
            await self._answered.wait()
        if scope.cancelled_caught:
            self._report("lifespan.startup")

    async def stop(self) -> None:
        """Shut the application down."""
        self._stop.set()
        if not await self._call.until_ended(self._deadline):
            if self._answers < 2:
                self._report("lifespan.shutdown")
            self._call.cancel()
            await self._call.until_ended(self._deadline)

    def _report(self, event: str) -> None:
        message = f"{event} is not answered within {self._deadline:g} s"
        self.findings.append(RULES["lifespan-unanswered"].broken(message, LIFESPAN))


# How long a thread may take until it is seen to do something: it needs a core for that.
_BEGINNING_SECONDS: Final = 0.05


async def run_probe(session: Session, name: str, path: str) -> tuple[Probing, bool]:
    """Run one probe.

    Returns:
        The probe, which has what was found, and whether something of it still goes on.
    """
    p = Probing(session, path)
    before, known, threads = tasks(), set(threading.enumerate()), busy_threads()
    with LeftOpen() as left_open:
        await PROBES[name](p)
        await p.settle()
        if not p.is_spoilt:
            await left_open.look()
    ended_at = perf_counter()
    while True:
        left = tasks() - before
        begun = {thread.ident for thread in threading.enumerate() if thread not in known}
        # A new thread may have the number of one that has ended.
        busy = {number: text for number, text in busy_threads().items() if number in begun or number not in threads}
        passed = perf_counter() - ended_at
        # A thread that has only just begun has called nothing yet, which is not to be idle.
        is_beginning = begun and not busy and passed < _BEGINNING_SECONDS
        if not is_beginning and (passed > p.grace or not (left or busy)):
            break
        await anyio.sleep(0.005)
    if not p.is_spoilt:
        if left:
            p.found("task-left", f"{len(left)} outlive their request, as {leak_of_task(next(iter(left)))}")
        if left_open.generators:
            p.found("generator-left", f"{left_open.generators[0]} was left to the garbage collector")
        if left_open.files:
            p.found("file-left", f"{left_open.files[0]} was left to the garbage collector")
    if busy:
        # One that is the application's own says more than one of the standard library that waits for it.
        p.found("thread-left", f"a thread works on for a request that has ended: {max(busy.values(), key=_is_own)}")
    return p, bool(left or busy)


def _is_own(place: str) -> bool:
    return STDLIB not in place


async def work(
    app: Application,
    jobs: Iterable[tuple[str, str]],
    options: dict[str, Any],
    tell: Tell,
    profiles: dict[str, list[Any]] | None = None,
) -> None:
    """Run probes until all are done or one leaves something behind that would disturb the next.

    Args:
        app: The application.
        jobs: Names of probes, and a path each.
        options: ``deadline``, ``grace`` and ``glance`` of the ``Session``.
        tell: Called with every line for the parent.
        profiles: What another process has learnt of paths.
    """
    session = Session(app, **options)
    lifespan = Lifespan(app, session.deadline)
    await lifespan.start()
    if lifespan.failure is not None:
        tell({"failure": f"the application does not start: {lifespan.failure}"})
        return
    tell({"ready": True})
    session.state = lifespan.state
    session.profiles.update({path: profile_from(given) for path, given in (profiles or {}).items()})
    is_stopped = False
    for name, path in jobs:
        tell({"begin": [name, path]})
        began = perf_counter()
        if name == LIFESPAN:
            await lifespan.stop()
            is_stopped = True
            findings, skipped, is_dirty = lifespan.findings, None, False
        else:
            p, is_dirty = await run_probe(session, name, path)
            findings, skipped = p.findings, p.skipped
        tell(
            {
                "end": [name, path],
                "seconds": round(perf_counter() - began, 3),
                "skipped": skipped,
                "profile": session.profiles.get(path),
                "findings": [asdict(finding) for finding in findings],
            }
        )
        if is_dirty:
            return
    if not is_stopped:
        await lifespan.stop()


def main(source: TextIO | None = None, out: TextIO | None = None, leave: Callable[[int], object] = os._exit) -> None:
    """Read what to do, and do it.

    Args:
        source: Where that is read from; the standard input.
        out: Where the lines go; the standard output, which is the application's from then on no more.
        leave: Ends the process without waiting for threads: some may never end.
    """
    given = json.loads((sys.stdin if source is None else source).readline())
    if source is None:
        _end_with_parent(leave)
    own = None
    if out is None:
        # What the application prints goes elsewhere.
        out = own = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
    tell = partial(_tell, out)
    status = 0
    try:
        app = load(given["target"], given["directory"])
    except BaseException as exc:
        if not isinstance(exc, TargetError):
            traceback.print_exc()
        tell({"failure": f"{given['target']} cannot be imported: {type(exc).__name__}: {exc}"})
    else:
        jobs = [(name, path) for name, path in given["jobs"]]
        # What was made so far is not looked at by each of the collections to come.
        gc.freeze()
        try:
            anyio.run(work, app, jobs, given["options"], tell, given["profiles"], backend=given["backend"])
        except BaseException:
            traceback.print_exc()
            status = 70
    if own is not None:
        own.close()
    sys.stderr.flush()
    leave(status)


def _end_with_parent(leave: Callable[[int], object]) -> None:
    """Watch, in a thread, for the end of the pipe from the parent: an application may hold the event loop for ever."""
    # Whatever the application reads of its standard input, it is not this pipe.
    pipe = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    def watch() -> None:
        os.read(pipe, 1)
        os.close(pipe)
        leave(1)

    threading.Thread(target=watch, name="asgicore check", daemon=True).start()


def _tell(out: TextIO, line: dict[str, Any]) -> None:
    out.write(json.dumps(line) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
