"""Starts, watches and stops real servers, each in a process of its own on a free port of the loopback interface."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

TESTS = Path(__file__).resolve().parents[1]
PROJECT = TESTS.parent

START_SECONDS = 30.0
STOP_SECONDS = 10.0

# What no server may have to say about an application that behaves.
_COMPLAINT = re.compile(r"\bERROR\b|\[error\]|CRITICAL|Traceback|WARNING asgicore|Exception ignored|never awaited")

_NOTHING = r"(?!)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One way to run an application."""

    name: str
    modules: tuple[str, ...]
    """What has to be installed; the first is what ``python -m`` runs."""

    arguments: tuple[str, ...]
    """The command line; ``{port}``, ``{app}`` and ``{grace}`` are filled in."""

    http2: bool = False
    """Whether clients speak HTTP/2 to it, by prior knowledge: no TLS."""

    has_lifespan: bool = True
    reads_body_first: bool = False
    """Whether the application starts when the whole body is there, so that it sees nothing of the upload."""

    holds_back: bool = True
    """Whether ``send`` waits for a client that does not read."""

    continues_late: bool = True
    """Whether ``100 Continue`` is sent when the application asks for the body, and not before."""

    survives_early_answers: bool = True
    """Whether a part of the body that comes after the answer is taken for what it is."""

    excused: str = _NOTHING
    """A pattern for what the log may hold because of the server itself, whole lines."""

    cuts_streams: bool = True
    """Whether it cancels open requests when it is stopped; otherwise the application has to end them."""

    tells_of_cuts: bool = False
    """Whether it logs as errors what it cancels itself then."""

    hands_signals_on: bool = True
    """Whether the process of the application gets the signal that the server gets."""

    ends_late: bool = True
    """Whether a response is whole that ends after the server has begun to stop."""


_BUSY = (
    r"[^\n]* Error in ASGI Framework\nTraceback [^\n]*\n"
    r"(?: [^\n]*\n)* +await self\._send_h11_event\(h11\.EndOfMessage\(\)\)\n"
    r"(?: [^\n]*\n)*trio\.BusyResourceError: [^\n]*\n"
)

_CLOSED = (
    r"[^\n]* \[ERROR\] Error in ASGI application\nTraceback [^\n]*\n"
    r"(?: [^\n]*\n)* +self\.writer\.write\(data\)\n"
    r"(?: [^\n]*\n)*RuntimeError: [^\n]*<TCPTransport closed=True [^\n]*; the handler is closed\n"
)


def _anycorn(http2: bool) -> Kind:
    return Kind(
        name=f"anycorn-h{2 if http2 else 1}",
        modules=("anycorn", "h2"),
        arguments=("--graceful-timeout", "1", "-b", "127.0.0.1:{port}", "{app}"),
        http2=http2,
    )


def _hypercorn(worker: str, http2: bool) -> Kind:
    return Kind(
        name=f"hypercorn-{worker}-h{2 if http2 else 1}",
        modules=("hypercorn", worker, "h2"),
        arguments=("-k", worker, "--graceful-timeout", "{grace}", "-b", "127.0.0.1:{port}", "{app}"),
        http2=http2,
        continues_late=False,
        # Hypercorn 0.18 goes on as soon as the window of a stream is full, and buffers without end.
        holds_back=not http2,
        # Hypercorn 0.18: such a part raises KeyError, which ends the connection, and the trio worker altogether.
        survives_early_answers=not http2,
        # Its trio worker writes to a connection that its reader is just closing, when a client leaves as soon as it has
        # its answer, and takes what the last, empty write raises for an error of the application.
        excused=_BUSY if worker == "trio" and not http2 else _NOTHING,
        tells_of_cuts=worker == "asyncio",
        hands_signals_on=False,
        # Hypercorn 0.18: the connection is closed with the stream, and then the task that would write END_STREAM ends.
        ends_late=not http2,
    )


def _granian(http2: bool) -> Kind:
    return Kind(
        name=f"granian-h{2 if http2 else 1}",
        modules=("granian",),
        arguments=("--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}", "{app}"),
        http2=http2,
        # It waits for open responses without end; --workers-kill-timeout does not cancel but kills.
        cuts_streams=False,
    )


def _uvicorn(*implementation: str) -> tuple[str, ...]:
    # By itself it waits for open requests without end; 1 s is what a deployment with streams would set.
    address = ("--host", "127.0.0.1", "--port", "{port}", "--timeout-graceful-shutdown", "{grace}")
    return (*implementation, *address, "--no-access-log", "{app}")


def _gunicorn(http2: bool) -> Kind:
    return Kind(
        name=f"gunicorn-h{2 if http2 else 1}",
        modules=("gunicorn", "h2") if http2 else ("gunicorn",),
        arguments=(
            *("-k", "asgi", "-w", "1", "-b", "127.0.0.1:{port}", "--graceful-timeout", "5", "--no-control-socket"),
            # It cancels the application itself after 3 s: long enough away to see that asgicore does.
            *("--asgi-disconnect-grace-period", "600"),
            *(("--http-protocols", "h2,h1", "--http2-cleartext", "prior-knowledge") if http2 else ()),
            "{app}",
        ),
        http2=http2,
        # It writes over HTTP/2 to a connection that the client has just closed, and takes what the transport of uvloop
        # raises for an error of the application.
        excused=_CLOSED if http2 else _NOTHING,
        # The worker would, but takes longer than the graceful timeout after which the master kills it.
        cuts_streams=False,
    )


UVICORN = Kind(
    name="uvicorn-h11",
    modules=("uvicorn", "h11"),
    arguments=_uvicorn("--http", "h11", "--loop", "asyncio"),
    tells_of_cuts=True,
)

KINDS = (
    UVICORN,
    Kind(
        name="uvicorn-httptools-uvloop",
        modules=("uvicorn", "httptools", "uvloop"),
        arguments=_uvicorn("--http", "httptools", "--loop", "uvloop"),
        tells_of_cuts=True,
    ),
    _hypercorn("asyncio", False),
    _hypercorn("asyncio", True),
    _hypercorn("trio", False),
    _hypercorn("trio", True),
    _granian(False),
    _granian(True),
    Kind(
        name="daphne",
        modules=("daphne",),
        arguments=("-b", "127.0.0.1", "-p", "{port}", "--application-close-timeout", "600", "{app}"),
        has_lifespan=False,
        reads_body_first=True,
        holds_back=False,
        continues_late=False,
    ),
    _gunicorn(False),
    _gunicorn(True),
)

# Whose personality is tried, and no more: it is a Hypercorn in nearly everything.
ANYCORNS = (_anycorn(False), _anycorn(True))


def eventually(check: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait until ``check()`` holds; it is asked every few milliseconds.

    Raises:
        AssertionError: It does not hold after ``seconds``.
    """
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"{what} within {seconds:g} s"
        time.sleep(0.005)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now, nor will before it is used.

    Granian shares a port with whoever has it, and the system gives the same one to two processes that ask for any, or
    to a client. So each process of the tests takes its own, from below those that clients get.
    """
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 16
    while True:
        port = 12000 + 16 * secrets.randbelow(1250) + own
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """A server under way.

    Args:
        kind: What to start; skips the test if it is not installed.
        directory: Where its log and the events of the application go.
        app: The application, ``module:name``.
        environment: Variables for the application.
        grace: How many seconds it waits at its end for requests that are open.
    """

    def __init__(
        self,
        kind: Kind,
        directory: Path,
        app: str = "wire.site:app",
        environment: Mapping[str, str] | None = None,
        grace: int = 1,
    ) -> None:
        for module in kind.modules:
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"{module} is not installed")
        self.kind = kind
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = directory / "log"
        self._events = directory / "events"
        self._events.touch()
        self._is_terminated = False
        arguments = [argument.format(port=self.port, app=app, grace=grace) for argument in kind.arguments]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", kind.modules[0], *arguments],
                cwd=PROJECT,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(TESTS), str(PROJECT)]),
                    "PYTHONUNBUFFERED": "1",
                    "WIRE_EVENTS": str(self._events),
                    **(environment or {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Workers belong to its group, so that none of them can stay behind.
                start_new_session=True,
            )
        try:
            self._await_answer()
        except BaseException:
            self.kill()
            raise

    def _await_answer(self) -> None:
        eventually(self._connects, f"{self.kind.name} takes connections", START_SECONDS)
        # Some listen before the application is there; the first request waits for it. It may be refused.
        with self.client(timeout=START_SECONDS) as client:
            answer = client.get("/")
        assert not answer.is_server_error, self.log

    def _connects(self) -> bool:
        assert self.process.poll() is None, f"{self.kind.name} ended:\n{self.log}"
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    # --- what it tells -------------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """What it wrote to its standard streams."""
        return self._log.read_text(errors="replace")

    def complaints(self, *, of: str = "") -> list[str]:
        """The lines of the log that tell of an error; those of one logger alone if ``of`` names it."""
        log = re.sub(self.kind.excused, "", self.log)
        return [line for line in log.splitlines() if _COMPLAINT.search(line) and of in line]

    def events(self, ident: str) -> list[str]:
        """What the application recorded under ``ident``, in order."""
        lines = self._events.read_text().splitlines()
        return [line.removeprefix(f"{ident} ") for line in lines if line.startswith(f"{ident} ")]

    def await_event(self, ident: str, what: str, seconds: float = 20.0) -> None:
        """Wait until the application has recorded ``what`` under ``ident``."""
        eventually(lambda: what in self.events(ident), f"{self.kind.name}: {ident} {what}", seconds)

    # --- clients -------------------------------------------------------------------------------------

    def client(self, timeout: float = 30.0) -> httpx.Client:
        """A client that speaks the protocol of this kind."""
        return httpx.Client(timeout=timeout, **self._options())

    def async_client(self, timeout: float = 30.0) -> httpx.AsyncClient:
        """The same for many requests at once."""
        return httpx.AsyncClient(timeout=timeout, limits=httpx.Limits(max_connections=100), **self._options())

    def _options(self) -> dict[str, Any]:
        http2 = self.kind.http2
        # Nothing is verified without TLS, but the certificates of all authorities would be loaded for each client.
        return {"base_url": self.url, "http1": not http2, "http2": http2, "trust_env": False, "verify": False}

    # --- the end -------------------------------------------------------------------------------------

    def terminate(self, *, whole_group: bool = False) -> None:
        """Ask it to end, by SIGTERM; once. ``whole_group`` asks its workers, too, as process managers do."""
        if not self._is_terminated:
            self._is_terminated = True
            if whole_group:
                os.killpg(self.process.pid, signal.SIGTERM)
            else:
                self.process.send_signal(signal.SIGTERM)

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        """Its main process does nothing within the block, and finds then what came meanwhile; its workers go on."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Ask it to end and wait for that.

        Raises:
            AssertionError: It is still there after ``seconds``, or ended by something else.
        """
        self.terminate()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.kind.name} did not end within {seconds:g} s:\n{self.log}") from None
        finally:
            self.kill()
        # Some raise the signal again when they are done, as the manual of signals recommends.
        assert code in (0, -signal.SIGTERM), f"{self.kind.name} ended with {code}:\n{self.log}"

    def kill(self) -> None:
        """Make sure that neither it nor a worker of it is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(5)


@contextlib.contextmanager
def running(
    kind: Kind,
    directory: Path,
    app: str = "wire.site:app",
    environment: Mapping[str, str] | None = None,
    grace: int = 1,
) -> Iterator[Server]:
    """A server for the length of a block; it has to end when it is asked to."""
    server = Server(kind, directory, app, environment, grace)
    try:
        yield server
    except BaseException:
        server.kill()
        raise
    server.stop()


def typed(
    console: str, directory: Path, port: int | str
) -> Iterator[tuple[str, str, subprocess.CompletedProcess[str]]]:
    """Type the commands of a page, to the server at another port; with each comes what stands below it."""
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", console, re.MULTILINE):
        done = subprocess.run(
            ["bash", "-c", command.replace("127.0.0.1:8000", f"127.0.0.1:{port}")],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        yield command, expected, done
