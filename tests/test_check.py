"""``python -m asgicore check``: its command line, its report, its processes."""

from __future__ import annotations

import io
import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from asgicore.__main__ import main
from asgicore.testing._check import processes, worker
from asgicore.testing._check.exchange import Answer, Call
from asgicore.testing._check.probes import NAMES
from asgicore.testing._check.probing import Probing, Profile, Session, profile_from
from asgicore.testing._check.processes import CheckError, check
from asgicore.testing._check.report import Result, leave_out_repeats, to_text
from asgicore.testing._check.worker import load, work
from asgicore.testing._lint.rules import Finding

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.timeout(120)

# Each of these is an application that a test names; what it prints goes nowhere near the report.
APPS = """
import os, sys, threading, time
import anyio

print("imported")

async def good(scope, receive, send):
    assert scope["type"] == "http"
    print("asked")
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else b"hello"})

async def upper(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Length", b"0")]})
    await send({"type": "http.response.body"})

async def coded(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"transfer-encoding", b"chunked")]})
    await send({"type": "http.response.body"})

async def exits(scope, receive, send):
    print("last words", file=sys.stderr)
    if scope["type"] == "http":
        sys.stderr.flush()
        os._exit(3)

async def halts(scope, receive, send):
    if scope["type"] == "http":
        time.sleep(60)

taken = []

async def grows(scope, receive, send):
    if scope["type"] == "http":
        taken.append(bytearray(b"x") * (300 * 2**20))
        await anyio.sleep_forever()

async def pins(scope, receive, send):
    def work():
        def inner():
            time.sleep(60)
        inner()
    if scope["type"] == "http":
        threading.Thread(target=work, daemon=True).start()
        await good(scope, receive, send)

async def does_not_start(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

number = 3
class Site:
    good = staticmethod(good)
"""


SPINS = """
import os

async def app(scope, receive, send):
    if scope["type"] == "http":
        pipe = open(os.environ["PIPE"], "wb", buffering=0)
        pipe.write(b"spins")
        while True:
            pass
"""


@pytest.fixture(autouse=True)
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the module ``apps``."""
    (tmp_path / "apps.py").write_text(APPS, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "apps", raising=False)
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    """The exit status and what is printed."""
    out = io.StringIO()
    try:
        status: Any = main(["check", *arguments], out)
    except SystemExit as exc:
        status = exc.code
    return status, out.getvalue()


def finding(rule: str, level: Any = "error", message: str = "seen") -> Finding:
    return Finding(section="RFC 1", message=message, rule=rule, level=level, by="application")


# --- the command line -------------------------------------------------------------------------------------


def test_check_of_the_example_ends_with_0_and_names_every_probe() -> None:
    """As its user runs it, from the directory of the application."""
    done = subprocess.run(
        [sys.executable, "-m", "asgicore", "check", "hello:app"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=EXAMPLES,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f" {name} " in done.stdout for name in NAMES)
    assert done.stdout.splitlines()[0] == "/  (GET: 200, 14 bytes)"
    assert "0 errors, 0 warnings, 0 notes; 28 probes of hello:app" in done.stdout


def test_module_run_as_a_command_ends_with_its_status(
    as_command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``python -m asgicore``."""
    with pytest.raises(SystemExit) as ended:
        as_command("asgicore", "check", "--help")
    assert ended.value.code == 0
    as_command("asgicore.__main__", run_name="imported")
    monkeypatch.setattr(sys, "stdin", io.StringIO("no JSON"))
    with pytest.raises(json.JSONDecodeError):
        as_command("asgicore.testing._check.worker")


def test_check_with_an_error_ends_with_1_and_says_how_to_see_it_again(apps: Path) -> None:
    """What was tried, what was found, where it is written, and the command for it."""
    arguments = ["apps:upper", "--app-dir", str(apps), "--path", "/", "--path", "/b c", "--only", "get"]
    status, text = run(*arguments, "--deadline", "2.5")
    assert status == 1
    lines = text.splitlines()
    assert lines[0] == "/  (GET: 200, 0 bytes)"
    assert lines[2:6] == [
        "  error   get              GET.",
        "          error:   the name b'Content-Length' is not in lower case",
        '          rule:    names are in lower case (header-case; ASGI HTTP 2.5, "Response Start - send event")',
        f"          again:   python -m asgicore check apps:upper --app-dir {apps} --deadline 2.5 --path / --only get",
    ]
    assert "--path '/b c' --only get" in text
    assert lines[-2].startswith("2 errors, 0 warnings, 0 notes; 2 probes of apps:upper in ")
    assert lines[-1] == "What is so on purpose is left out by --ignore RULE."


def test_check_as_json_holds_the_same(apps: Path) -> None:
    """For a program: every probe, every finding."""
    status, text = run("apps:upper", "--app-dir", str(apps), "--only", "get", "--only", "leave-streaming", "--json")
    report = json.loads(text)
    assert status == 1
    assert (report["target"], report["errors"], report["warnings"], report["notes"]) == ("apps:upper", 1, 0, 0)
    first, second = report["results"]
    assert (first["probe"], first["path"], first["tried"], first["skipped"]) == ("get", "/", "GET.", None)
    assert first["findings"] == [
        {
            "rule": "header-case",
            "level": "error",
            "section": 'ASGI HTTP 2.5, "Response Start - send event"',
            "message": "the name b'Content-Length' is not in lower case",
        }
    ]
    assert second["skipped"] == "a GET is answered at once"
    assert second["again"].endswith("--path / --only leave-streaming")


def test_check_ignores_the_rules_that_it_is_told_to(apps: Path) -> None:
    """Errors that are known and accepted."""
    status, text = run("apps:upper", "--app-dir", str(apps), "--only", "get", "--ignore", "header-case")
    assert status == 0
    assert "0 errors" in text


def test_check_takes_warnings_for_errors_if_strict(apps: Path) -> None:
    """And passes them otherwise."""
    arguments = ["apps:coded", "--app-dir", str(apps), "--only", "get"]
    assert run(*arguments)[0] == 0
    status, text = run(*arguments, "--strict")
    assert status == 1
    assert "warning: the response has transfer-encoding, which the server ignores" in text


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "required: module:app"),
        (["apps:good", "--path", "relative"], "does not begin with a slash"),
        (["apps:good", "--only", "everything"], "invalid choice: 'everything'"),
        (["apps:good", "--ignore", "everything"], "there is no rule 'everything'"),
        (["apps:good", "--deadline", "0"], "--deadline"),
        (["apps:good", "--backend", "curio"], "curio"),
        (["apps"], "'apps' is not module:application"),
        (["apps:missing"], "has no attribute 'missing'"),
        (["apps:number"], "apps:number is int, which cannot be called"),
        (["not_there:app"], "No module named 'not_there'"),
        (["apps:does_not_start"], "the application does not start: no database"),
    ],
)
def test_check_that_cannot_be_done_ends_with_2_and_says_why(
    arguments: list[str], why: str, apps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors of the command line, and applications that cannot be had."""
    where = ["--app-dir", str(apps), "--only", "get"] if arguments else []
    status, text = run(*arguments, *[one for one in where if "--only" not in arguments or one not in ("--only", "get")])
    assert status == 2
    assert text == ""
    told = capsys.readouterr().err
    assert why in told
    assert "Traceback" not in told


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_check_runs_on_the_backend_that_it_is_told(backend: str, apps: Path) -> None:
    """Attributes of attributes may be named."""
    if backend == "trio":
        pytest.importorskip("trio")
    status, text = run("apps:Site.good", "--app-dir", str(apps), "--only", "post", "--backend", backend)
    assert (status, f"--backend {backend}" in text) == (0, False)


# --- processes --------------------------------------------------------------------------------------------


def rules_of(results: list[Result]) -> list[tuple[str, list[str]]]:
    return [(result.probe, [one.rule for one in result.findings]) for result in results]


def test_check_goes_on_in_another_process_where_one_ends(apps: Path) -> None:
    """An application that ends the process is reported with its status and its last words, probe by probe."""
    results = check("apps:exits", [("get", "/"), ("head", "/")], directory=str(apps))
    assert rules_of(results) == [("get", ["crashed"]), ("head", ["crashed"])]
    message = results[0].findings[0].message
    assert message.startswith("the process ended with the status 3\n")
    assert message.endswith("last words")


def test_check_ends_a_process_that_says_nothing(apps: Path) -> None:
    """An application that blocks the event loop is reported, and not waited for."""
    results = check("apps:halts", [("get", "/"), ("lifespan", "")], directory=str(apps), patience=2.0)
    assert rules_of(results) == [("get", ["stuck"]), ("lifespan", [])]
    assert results[1].skipped == "the application holds the event loop"


def test_check_that_is_killed_leaves_no_worker_behind(apps: Path) -> None:
    """Not even one whose application holds the event loop."""
    (apps / "spins.py").write_text(SPINS, encoding="utf-8")
    command = [sys.executable, "-m", "asgicore", "check", "spins:app", "--only", "get"]
    environment = {**os.environ, "PIPE": str(apps / "pipe"), "PYTHONPATH": str(EXAMPLES.parent)}
    os.mkfifo(apps / "pipe")
    with subprocess.Popen(command, cwd=apps, env=environment) as process:
        with open(apps / "pipe", "rb") as pipe:
            assert pipe.read(5) == b"spins"
            process.terminate()
            # The end of the pipe is that of the worker.
            assert pipe.read() == b""


def test_check_without_the_backend_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, before anything is started."""
    monkeypatch.setattr(processes, "find_spec", lambda name: None)
    with pytest.raises(CheckError, match=r"it comes with asgicore\[trio\]"):
        check("apps:good", [("get", "/")], backend="trio")


def test_check_of_a_module_that_does_not_come_to_an_end_is_an_error(apps: Path) -> None:
    """Nothing can be tried then."""
    (apps / "sleeps.py").write_text("import time\ntime.sleep(60)", encoding="utf-8")
    with pytest.raises(CheckError, match="nothing was heard for 1 s"):
        check("sleeps:app", [("get", "/")], directory=str(apps), patience=1.0)


def test_check_ends_a_process_that_takes_all_memory(apps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the machine has none left."""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("the system does not tell how much memory a process takes")
    monkeypatch.setattr(processes, "MAX_BYTES", 200 * 2**20)
    results = check("apps:grows", [("get", "/")], directory=str(apps), deadline=10)
    assert rules_of(results) == [("get", ["memory"])]
    assert "more than 200 MiB" in results[0].findings[0].message


def test_memory_of_a_process_that_is_not_there_is_unknown() -> None:
    """As on a system that does not tell."""
    assert processes._resident_bytes(-1) is None


def test_check_starts_anew_after_a_probe_that_leaves_a_thread(apps: Path) -> None:
    """What one probe leaves behind does not disturb the next; what was learnt of the path is kept."""
    results = check("apps:pins", [("get", "/"), ("head", "/")], directory=str(apps), deadline=1.0, grace=0.2)
    assert rules_of(results) == [("get", ["thread-left"]), ("head", ["thread-left"])]


def test_check_shows_what_the_application_prints_if_verbose(apps: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On the standard error; the report stays clean."""
    results = check("apps:good", [("get", "/")], directory=str(apps), verbose=True)
    assert rules_of(results) == [("get", [])]
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "imported" in captured.err
    with pytest.raises(CheckError, match="cannot be imported"):
        check("apps:missing", [("get", "/")], directory=str(apps), verbose=True)


def work_given(apps: Path, target: str, *jobs: tuple[str, str]) -> io.StringIO:
    given = {
        "target": target,
        "directory": str(apps),
        "jobs": jobs,
        "backend": "asyncio",
        "options": {"deadline": 1.0, "grace": 0.2},
        "profiles": {},
    }
    return io.StringIO(json.dumps(given))


def test_worker_tells_each_probe_in_a_line(apps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready, begin, end; then it leaves without waiting for anything."""
    out, left = io.StringIO(), list[int]()
    source = work_given(apps, "apps:good", ("get", "/"), ("lifespan", ""))
    worker.main(source, out, left.append)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [next(iter(line)) for line in lines] == ["ready", "begin", "end", "begin", "end"]
    assert lines[2]["profile"][0] == "complete"
    assert left == [0]


def test_worker_writes_where_the_standard_output_was(apps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the application prints goes to the standard error from then on."""
    copied: list[tuple[int, int]] = []
    file = os.open(apps / "lines", os.O_CREAT | os.O_RDWR)
    monkeypatch.setattr(worker, "_end_with_parent", lambda leave: None)
    monkeypatch.setattr(os, "dup", lambda number: file)
    monkeypatch.setattr(os, "dup2", lambda *numbers: copied.append(numbers))
    monkeypatch.setattr(sys, "stdin", work_given(apps, "apps:missing"))
    left: list[int] = []
    worker.main(leave=left.append)
    assert copied == [(2, 1)]
    assert "cannot be imported" in (apps / "lines").read_text(encoding="utf-8")
    assert left == [0]


def test_worker_tells_of_a_module_that_lacks_another(apps: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With its traceback: the module is there."""
    (apps / "lacks.py").write_text("import no_such_module", encoding="utf-8")
    out, left = io.StringIO(), list[int]()
    worker.main(work_given(apps, "lacks:app"), out, left.append)
    assert "lacks:app cannot be imported: ModuleNotFoundError: No module named 'no_such_module'" in out.getvalue()
    assert "import no_such_module" in capfd.readouterr().err
    assert left == [0]


def test_worker_tells_of_a_module_that_is_missing(apps: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In one line: a traceback would say nothing more."""
    out, left = io.StringIO(), list[int]()
    worker.main(work_given(apps, "no_such_module:app"), out, left.append)
    assert "no_such_module:app cannot be imported: TargetError: No module named 'no_such_module'" in out.getvalue()
    assert capfd.readouterr().err == ""
    assert left == [0]


def test_worker_ends_with_the_pipe_from_its_parent() -> None:
    """Whatever else it does then."""
    ended: queue.Queue[int] = queue.Queue()
    own = os.dup(0)
    there, here = os.pipe()
    try:
        os.dup2(there, 0)
        worker._end_with_parent(ended.put)
        assert os.read(0, 1) == b""  # the application reads nothing of it
        os.close(here)
        assert ended.get(timeout=5) == 1
    finally:
        os.dup2(own, 0)
        os.close(own)
        os.close(there)


def test_worker_that_fails_says_so(apps: Path) -> None:
    """By its exit status: that is the check's own fault."""
    out, left = io.StringIO(), list[int]()
    worker.main(work_given(apps, "apps:good", ("no such probe", "/")), out, left.append)
    assert left == [70]


def test_load_puts_the_directory_first(apps: Path) -> None:
    """Once."""
    first = load("apps:good", str(apps))
    for target in ("apps", ":good", "apps:number"):
        with pytest.raises(ValueError, match=target):
            load(target, str(apps))
    assert sys.path.count(str(apps)) == 1
    assert load("apps:good", str(apps)) is first
    assert sys.path.count(str(apps)) == 1


# --- the lifespan around all ------------------------------------------------------------------------------


async def told_by(
    app: Any, *jobs: tuple[str, str], profiles: dict[str, list[Any]] | None = None
) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    with anyio.fail_after(20):
        await work(app, jobs, {"deadline": 0.3, "grace": 0.1}, told.append, profiles)
    return told


def lifespan_app(*script: str) -> Any:
    """An application whose lifespan does this; it answers every request with its state."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            body = str(sorted(scope.get("state", ()))).encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
            return
        for step in script:
            if step == "receive":
                await receive()
            elif step == "state":
                scope["state"]["pool"] = object()
            elif step == "raise":
                raise ValueError("http only")
            elif step == "wait":
                await anyio.sleep_forever()
            else:
                await send({"type": f"lifespan.{step}"})

    return app


@pytest.mark.parametrize(
    ("script", "rules"),
    [
        (["receive", "state", "startup.complete", "receive", "shutdown.complete"], []),
        (["receive", "startup.complete", "receive", "shutdown.complete", "receive"], []),
        (["raise"], ["raised"]),
        ([], ["lifespan-ignored"]),
        (["receive", "wait"], ["lifespan-unanswered", "lifespan-unanswered"]),
        (["receive", "startup.complete", "wait"], ["lifespan-unanswered"]),
        (["receive", "startup.complete"], ["lifespan-left"]),
        (["receive", "startup.complete", "receive", "raise"], ["lifespan-raised"]),
    ],
    ids=["whole", "reads-on", "unsupported", "silent", "no-startup", "no-shutdown", "left", "raised"],
)
async def test_lifespan_is_run_around_the_probes(script: list[str], rules: list[str]) -> None:
    """Each way of it is told by the probe of this name, and keeps no request from being answered."""
    told = await told_by(lifespan_app(*script), ("get", "/"), ("lifespan", ""))
    assert told[0] == {"ready": True}
    body = told[2]["profile"].answer.body
    assert body == ("['pool']" if "state" in script else "[]")
    assert [one["rule"] for one in told[-1]["findings"]] == rules


async def test_lifespan_is_shut_down_without_its_probe() -> None:
    """What was started is stopped."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            message = await receive()
            seen.append(message["type"])
            await send({"type": f"{message['type']}.complete"})

    assert await told_by(app) == [{"ready": True}]
    assert seen == ["lifespan.startup", "lifespan.shutdown"]


async def test_failed_startup_is_the_end() -> None:
    """With what the application says."""
    told = await told_by(lifespan_app("receive", "startup.failed"), ("get", "/"))
    assert told == [{"failure": "the application does not start: "}]


async def test_work_ends_with_a_probe_that_leaves_something_behind() -> None:
    """The rest is for another process, which is told what is known of the path."""
    calls: list[Call] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append(Call(anyio.sleep(5)))
        await lifespan_app("raise")(scope, receive, send)

    known: list[Any] = json.loads(json.dumps(Profile("complete", Answer(200, "\xff", 1), 0.1)))
    told = await told_by(app, ("head", "/"), ("get", "/"), profiles={"/": known})
    assert [next(iter(line)) for line in told] == ["ready", "begin", "end"]
    assert json.loads(json.dumps(told[-1]["profile"])) == known
    for call in calls:
        call.cancel()


def test_profile_survives_the_way_between_processes() -> None:
    """Whatever the body holds."""
    profile = Profile("streams", Answer(None, bytes(range(256)).decode("latin-1"), 256), 0.5)
    assert profile_from(json.loads(json.dumps(profile))) == profile


async def test_exchange_of_a_probe_takes_changes_to_the_scope() -> None:
    """A change to ``...`` leaves the key out."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    p = Probing(Session(app), "/a?b=c")
    exchange = p.exchange("PUT", headers=[(b"a", b"b")], scope={"server": ..., "http_version": "2"})
    assert await exchange.until_ended(5)
    (scope,) = seen
    assert (scope["method"], scope["path"], scope["query_string"], scope["http_version"]) == ("PUT", "/a", b"b=c", "2")
    assert "server" not in scope
    assert scope["headers"][-1] == (b"a", b"b")


async def test_exchange_finds_no_field_among_malformed_ones() -> None:
    """They are a finding of the lint, and break nothing here."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [("a", "b", "c")]})
        await send({"type": "http.response.body"})

    exchange = Probing(Session(app), "/").exchange()
    assert await exchange.until_ended(5)
    assert exchange.header(b"a") is None


# --- the report -------------------------------------------------------------------------------------------


def test_report_says_once_what_is_seen_everywhere() -> None:
    """By path: what a probe found, the next ones need not repeat; what is a probe's own, they do."""
    results = [
        Result("get", "/a", findings=[finding("header-case"), finding("works-on")]),
        Result("head", "/a", findings=[finding("header-case"), finding("works-on"), finding("body-reset")]),
        Result("get", "/b", findings=[finding("header-case")]),
    ]
    leave_out_repeats(results, {"body-reset"})
    found = [[one.rule for one in result.findings] for result in results]
    assert found == [["header-case", "works-on"], ["works-on"], ["header-case"]]


def test_report_shows_the_worst_of_a_probe_first() -> None:
    """Errors, warnings, notes, each with the rule; and why something was not tried."""
    results = [
        Result("get", "/", 1.0, findings=[finding("unanswered", "note"), finding("memory", "warning")]),
        Result("head", "/", 0.5, skipped="no reason"),
        Result("lifespan", "", findings=[finding("raised", "note", "a\nb")]),
    ]
    assert to_text("m:a", [], results).splitlines() == [
        "/",
        "",
        "  warning get              GET.",
        "          note:    seen",
        "          rule:    an answer begins before a client gives up (unanswered; RFC 1)",
        "          warning: seen",
        "          rule:    an application waits for send(): what it holds meanwhile is bounded (memory; RFC 1)",
        "          again:   python -m asgicore check m:a --path / --only get",
        "  -       head             (skipped: no reason)",
        "",
        "  note    lifespan         Startup and shutdown.",
        "          note:    a",
        "                   b",
        "          rule:    what an application raises reaches the server, which ends the connection (raised; RFC 1)",
        "          again:   python -m asgicore check m:a --only lifespan",
        "",
        "0 errors, 1 warning, 2 notes; 3 probes of m:a in 1.5 s",
        "What is so on purpose is left out by --ignore RULE.",
    ]


@pytest.mark.parametrize(
    ("kind", "text"),
    [("complete", "200, 5 bytes"), ("streams", "200, a stream"), ("waits", "no answer"), ("fails", "fails")],
)
def test_report_says_what_a_path_answers(kind: Any, text: str) -> None:
    """Whoever has asked for what is not there sees it at once."""
    result = Result("get", "/a", profile=Profile(kind, Answer(200, "hello", 5), 0.1))
    assert to_text("m:a", [], [result]).splitlines()[0] == f"/a  (GET: {text})"
