"""The script that compares our handler with Django's by Django's own tests; here it runs none of those.

They are run by ``python -m tests.django_suite`` alone, which needs a package index.
"""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
from pathlib import Path
from textwrap import dedent

import django_suite
import pytest
from django_suite import Difference, Outcome, UnavailableError, compare, find_common_failures, read_results

# Of those that run Django's own runner.
needs_django = pytest.mark.skipif(importlib.util.find_spec("django") is None, reason="needs Django")

PASSED = Outcome("passed")
END = {"status": 0, "leftovers": []}


def record(test: str, outcome: str, detail: str = "") -> dict[str, str]:
    return {"test": test, "outcome": outcome, "detail": detail}


def lines(*records: object) -> list[str]:
    return [json.dumps(each) for each in records]


# --- comparing -------------------------------------------------------------------------------------------------------


def test_compare_equal_outcomes_finds_nothing() -> None:
    """The same failures are no difference, whatever they say."""
    stock = {"a": PASSED, "b": Outcome("failed", "one"), "c": Outcome("skipped", "why")}
    ours = {"c": Outcome("skipped", "why"), "b": Outcome("failed", "two"), "a": PASSED}
    assert compare(stock, ours) == []


@pytest.mark.parametrize(
    ("stock", "ours"),
    [
        ("passed", "failed"),
        ("failed", "passed"),
        ("failed", "error"),
        ("passed", "skipped"),
        ("skipped", "passed"),
        ("expected failure", "unexpected success"),
        ("passed", None),
        ("failed", None),
        (None, "passed"),
        (None, "error"),
    ],
)
def test_compare_other_outcome_is_a_difference(stock: str | None, ours: str | None) -> None:
    """Whatever is not the same counts, both ways, and so does a test that one run lacks."""
    before, after = (Outcome(kind) if kind else None for kind in (stock, ours))
    found = compare({"a": before} if before else {}, {"a": after} if after else {})
    assert found == [Difference("a", before, after)]


def test_compare_puts_what_fails_only_with_ours_first() -> None:
    """What has to be mended is read first; the rest goes by name."""
    failed = Outcome("failed")
    found = compare({"a": failed, "b": PASSED, "c": PASSED}, {"a": PASSED, "b": failed, "c": failed, "d": PASSED})
    assert [each.test for each in found] == ["b", "c", "a", "d"]


def test_difference_shows_traceback_of_ours_and_otherwise_that_of_django() -> None:
    """What fails with ours alone is shown with how it does; what fails with Django's alone, too."""
    failed = Outcome("failed", "Traceback:\nAssertionError\n")
    text = "Traceback:\n    AssertionError"
    assert str(Difference("a", PASSED, failed)) == (f"a: passed with Django's handler, failed with ours\n    {text}")
    assert str(Difference("a", failed, None)) == f"a: failed with Django's handler, not run with ours\n    {text}"


def test_common_failures_that_say_another_thing_are_told_apart() -> None:
    """A test that fails for another reason than before is named with both reasons."""
    stock = {"a": Outcome("failed", "at 1\nsame\n"), "b": Outcome("failed", "one"), "c": Outcome("failed"), "d": PASSED}
    ours = {"a": Outcome("failed", "at 2\nsame\n"), "b": Outcome("failed", "two"), "c": PASSED, "d": Outcome("failed")}
    assert find_common_failures(stock, ours) == ["a", "b: 'one' with Django's handler, 'two' with ours"]


# --- what a run has written ------------------------------------------------------------------------------------------


def test_results_of_whole_run_have_every_outcome_and_no_problem() -> None:
    """The last word on each test is kept."""
    results = read_results(
        lines(record("a", "started"), record("a", "passed"), record("b", "started"), record("b", "skipped", "why"), END)
    )
    assert results.outcomes == {"a": PASSED, "b": Outcome("skipped", "why")}
    assert results.problem is None


def test_results_with_two_outcomes_of_a_test_keep_the_worse() -> None:
    """A test that fails, and then again in its cleanup, is in error, and one that fails twice says both."""
    end = {**END, "status": 1}
    written = [record("a", "failed", "1"), record("a", "error", "2"), record("a", "skipped", "3")]
    assert read_results(lines(*written, end)).outcomes == {"a": Outcome("error", "2")}
    written = [record("a", "failed", "1"), record("a", "failed", "2")]
    assert read_results(lines(*written, end)).outcomes == {"a": Outcome("failed", "12")}


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ([], "it ended early"),
        ([record("a", "passed")], "it ended early"),
        ([record("a", "passed"), record("b", "started")], "it ended within b"),
        ([END], "it has no tests"),
        (
            [record("unittest.loader._FailedTest.x", "error"), {**END, "status": 1}],
            "not imported: ['unittest.loader._FailedTest.x']",
        ),
        ([record("a", "started"), END], "nothing became of a"),
        ([record("a", "passed"), {**END, "status": 1}], "it exited with 1 and 0 failing tests"),
        ([record("a", "error"), END], "it exited with 0 and 1 failing tests"),
        ([record("a", "passed"), {**END, "leftovers": ["x.Y"]}], "Django's own handler was still in use: ['x.Y']"),
    ],
)
def test_results_of_run_that_did_not_end_well_say_why(written: list[object], problem: str) -> None:
    """A run counts only if it came to its end and says the same as its exit status."""
    assert read_results(lines(*written)).problem == problem


def test_results_cut_within_a_line_are_read_as_far_as_they_go() -> None:
    """A process may die while it writes."""
    results = read_results([*lines(record("a", "passed"), record("b", "started")), '{"test": "b", "out'])
    assert results.outcomes == {"a": PASSED}
    assert results.problem == "it ended within b"


# --- the source distribution -----------------------------------------------------------------------------------------


def make_archive(path: Path, *names: str) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())


def test_fetch_takes_archive_that_is_there(tmp_path: Path) -> None:
    """A cache saves the way to the index."""
    make_archive(tmp_path / "django-0.0.0.tar.gz", "django-0.0.0/tests/runtests.py")
    assert django_suite.fetch("0.0.0", tmp_path) == tmp_path / "django-0.0.0.tar.gz"


def test_fetch_of_what_is_not_to_be_had_says_what_pip_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an index the reason is pip's, and nothing is left in the cache."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UnavailableError, match=r"^pip exited with 1 and says .*(django==0\.0\.0|No module named pip)"):
        django_suite.fetch("0.0.0", tmp_path)
    assert not list(tmp_path.iterdir())


@needs_django
def test_script_without_source_distribution_exits_with_a_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CI can tell a run that was skipped from one that went well."""

    def fetch(version: str, folder: Path) -> Path:
        raise UnavailableError("no index")

    monkeypatch.setattr(django_suite, "fetch", fetch)
    assert django_suite.main(["--cache", str(tmp_path)]) == 77
    assert capsys.readouterr().out.rstrip().endswith("is not to be had: no index")


def test_unpack_takes_the_tests_alone(tmp_path: Path) -> None:
    """The Django of the archive must not be found in place of the one that is installed."""
    archive = tmp_path / "archive.tar.gz"
    make_archive(archive, "django-1/tests/runtests.py", "django-1/tests/a/b.py", "django-1/django/__init__.py", "pax")
    suite = django_suite.unpack(archive, tmp_path / "out")
    assert suite == tmp_path / "out/django-1/tests"
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.py")) == ["b.py", "runtests.py"]


def test_unpack_of_archive_without_tests_is_unavailable(tmp_path: Path) -> None:
    """An archive without Django's tests is none to run."""
    make_archive(tmp_path / "archive.tar.gz", "django-1/README.rst")
    with pytest.raises(UnavailableError, match="holds no tests"):
        django_suite.unpack(tmp_path / "archive.tar.gz", tmp_path / "out")


def test_unpack_of_archive_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    """The members are filtered as data."""
    make_archive(tmp_path / "archive.tar.gz", "django-1/tests/../../../evil")
    with pytest.raises(tarfile.FilterError):
        django_suite.unpack(tmp_path / "archive.tar.gz", tmp_path / "out" / "deep")
    assert not list(tmp_path.rglob("evil"))


# --- a run, over a suite of a few tests ------------------------------------------------------------------------------

RUNTESTS = """
    import sys

    import django
    from django.conf import settings
    from django.test.runner import DiscoverRunner

    if __name__ == "__main__":
        settings.configure(DATABASES={}, INSTALLED_APPS=[])
        django.setup()
        sys.exit(bool(DiscoverRunner(verbosity=0, interactive=False, parallel=1).run_tests(sys.argv[-1:])))
"""
BRIDGE = """
    from django.core.handlers import asgi


    class ASGIRequest(asgi.ASGIRequest):
        pass


    class ASGIHandler(asgi.ASGIHandler):
        request_class = ASGIRequest


    def get_asgi_application():
        return ASGIHandler()
"""


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a runtests.py and a bridge named ``small_bridge``."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path/small_bridge.py").write_text(dedent(BRIDGE), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    (tmp_path / "runtests.py").write_text(dedent(RUNTESTS), encoding="utf-8")
    return tmp_path


def write_tests(suite: Path, text: str) -> None:
    (suite / "few").mkdir()
    (suite / "few/__init__.py").touch()
    (suite / "few/tests.py").write_text(dedent(text), encoding="utf-8")


@needs_django
def test_run_with_bridge_has_it_wherever_django_has_its_own(suite: Path) -> None:
    """``from`` imports, the function, the static files and the client get ours; without it, Django's."""
    write_tests(
        suite,
        """
        import unittest

        from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
        from django.core.asgi import get_asgi_application
        from django.core.handlers.asgi import ASGIHandler, ASGIRequest
        from django.test import client


        class Tests(unittest.TestCase):
            def test_handler(self):
                self.assertEqual(ASGIHandler.__module__, "small_bridge")

            def test_request(self):
                self.assertEqual(ASGIRequest.__module__, "small_bridge")

            def test_function(self):
                self.assertEqual(type(get_asgi_application()).__module__, "small_bridge")

            def test_static_files(self):
                self.assertIn("small_bridge", [each.__module__ for each in ASGIStaticFilesHandler.__mro__])

            def test_client(self):
                self.assertEqual(client.ASGIRequest.__module__, "small_bridge")
        """,
    )
    ours = django_suite.run("few", suite, "small_bridge", 30)
    assert ours.problem is None
    assert {outcome.kind for outcome in ours.outcomes.values()} == {"passed"}
    stock = django_suite.run("few", suite, None, 30)
    assert stock.problem is None
    assert {outcome.kind for outcome in stock.outcomes.values()} == {"failed"}
    assert compare(stock.outcomes, ours.outcomes)


@needs_django
def test_run_records_every_kind_of_outcome(suite: Path) -> None:
    """Each test is known by its name, with its traceback if it fails; parts that fail are named, too."""
    write_tests(
        suite,
        """
        import unittest


        class Tests(unittest.TestCase):
            def test_pass(self): pass
            def test_fail(self): self.fail("because")
            def test_error(self): raise LookupError("missing")
            def test_skip(self): self.skipTest("no need")
            @unittest.expectedFailure
            def test_expected(self): self.fail()
            @unittest.expectedFailure
            def test_unexpected(self): pass
            def test_parts(self):
                for thing in (object(), 1):
                    with self.subTest(thing=thing):
                        self.assertEqual(thing, 1)


        class Broken(unittest.TestCase):
            @classmethod
            def setUpClass(cls): raise LookupError("class")
            def test_never(self): pass
        """,
    )
    results = django_suite.run("few", suite, None, 30)
    assert results.problem is None
    kinds = {test.removeprefix("few.tests.Tests."): outcome.kind for test, outcome in results.outcomes.items()}
    part = next(name for name in kinds if name.startswith("test_parts ("))
    assert part == "test_parts (thing=<object object at 0x...>)"
    assert kinds == {
        "test_pass": "passed",
        "test_fail": "failed",
        "test_error": "error",
        "test_skip": "skipped",
        "test_expected": "expected failure",
        "test_unexpected": "unexpected success",
        "test_parts": "failed",
        part: "failed",
        "setUpClass (few.tests.Broken)": "error",
    }
    assert "AssertionError: because" in results.outcomes["few.tests.Tests.test_fail"].detail
    assert "LookupError: missing" in results.outcomes["few.tests.Tests.test_error"].detail


@needs_django
def test_run_that_hangs_ends_and_tells_where(suite: Path) -> None:
    """The test that hangs is named, with the stacks, and what passed before is kept."""
    write_tests(
        suite,
        """
        import threading
        import unittest


        class Tests(unittest.TestCase):
            def test_a(self): pass
            def test_b(self): threading.Event().wait()
        """,
    )
    results = django_suite.run("few", suite, None, 3)
    assert results.outcomes == {"few.tests.Tests.test_a": PASSED}
    assert results.problem
    assert results.problem.startswith("it exited with 1; it ended within few.tests.Tests.test_b\n")
    assert "in test_b" in results.problem


@needs_django
def test_run_with_a_class_that_had_django_s_handler_before_does_not_count(suite: Path) -> None:
    """What took Django's own handler too early would be tested in place of ours."""
    early = "from django.contrib.staticfiles import handlers\n" + dedent(BRIDGE)
    (suite / "path/small_bridge.py").write_text(early, encoding="utf-8")
    write_tests(
        suite,
        """
        import unittest


        class Tests(unittest.TestCase):
            def test_pass(self): pass
        """,
    )
    problem = django_suite.run("few", suite, "small_bridge", 30).problem
    assert problem
    assert "in use: ['django.contrib.staticfiles.handlers.ASGIStaticFilesHandler']" in problem


@needs_django
def test_run_with_django_itself_as_the_bridge_does_not_count(suite: Path) -> None:
    """A comparison of Django with itself proves nothing."""
    (suite / "path/small_bridge.py").write_text(
        "from django.core.asgi import get_asgi_application\nfrom django.core.handlers.asgi import *\n", encoding="utf-8"
    )
    write_tests(suite, "")
    problem = django_suite.run("few", suite, "small_bridge", 30).problem
    assert problem
    assert "small_bridge has Django's own ASGIHandler, ASGIRequest, get_asgi_application" in problem


@needs_django
def test_labels_with_a_difference_make_the_script_fail(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status and the text tell what our handler changes, and all outcomes go to a file on request."""
    write_tests(
        suite,
        """
        import unittest

        from django.core.handlers.asgi import ASGIHandler


        class Tests(unittest.TestCase):
            def test_pass(self): pass
            def test_fail(self): self.fail()
            def test_stock(self): self.assertEqual(ASGIHandler.__module__, "django.core.handlers.asgi")
        """,
    )
    output = suite / "outcomes.json"
    options = ["--bridge", "small_bridge", "--timeout", "30"]
    assert django_suite.run_labels(["few"], suite, django_suite.parse([*options, "--json", str(output)])) == 1
    printed = capsys.readouterr().out
    assert "fails with both: few.tests.Tests.test_fail\n" in printed
    assert "difference: few.tests.Tests.test_stock: passed with Django's handler, failed with ours\n" in printed
    assert printed.endswith("2 tests the same, 1 different, 0 runs that do not count\n")
    data = json.loads(output.read_text(encoding="utf-8"))
    assert [each["test"] for each in data["differences"]] == ["few.tests.Tests.test_stock"]
    assert data["labels"]["few"]["ours"]["outcomes"]["few.tests.Tests.test_pass"]["kind"] == "passed"

    assert django_suite.run_labels(["few.tests.Tests.test_pass"], suite, django_suite.parse(options)) == 0
    assert django_suite.run_labels(["few"], suite, django_suite.parse([*options, "--ours-only"])) == 1
    assert capsys.readouterr().out.endswith("2 tests failing, 0 runs that do not count\n")
    assert django_suite.run_labels(["few"], suite, django_suite.parse([*options, "--stock-only"])) == 0
    assert capsys.readouterr().out.endswith("1 tests failing, 0 runs that do not count\n")
    assert django_suite.run_labels(["absent"], suite, django_suite.parse(options)) == 1


@needs_django
def test_labels_with_a_run_cut_short_name_only_what_it_came_to(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that ends early fails the script; the tests that it did not come to are not told one by one."""
    write_tests(
        suite,
        """
        import os
        import unittest

        from django.core.handlers.asgi import ASGIHandler


        class Tests(unittest.TestCase):
            def test_a(self): self.assertEqual(ASGIHandler.__module__, "django.core.handlers.asgi")
            def test_b(self): pass
            def test_c(self):
                if ASGIHandler.__module__ == "small_bridge":
                    os._exit(3)
            def test_d(self): pass
        """,
    )
    options = django_suite.parse(["--bridge", "small_bridge", "--timeout", "30"])
    assert django_suite.run_labels(["few"], suite, options) == 1
    printed = capsys.readouterr().out
    assert "does not count: it exited with 3; it ended within few.tests.Tests.test_c\n" in printed
    assert printed.count("difference: ") == 1
    assert "difference: few.tests.Tests.test_a: passed with Django's handler, failed with ours\n" in printed
    assert printed.endswith("1 tests the same, 1 different, 1 runs that do not count\n")
