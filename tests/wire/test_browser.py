"""The showcase in a real browser: headless Chromium, driven by selenium."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import pieces, tried_by

from .servers import PROJECT, UVICORN, Server, running

selenium = pytest.importorskip("selenium", reason="not installed: selenium")
pytest.importorskip("multipart", reason="not installed: multipart (extra 'forms')")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

DEADLINE = 20.0


def program(*names: str) -> str:
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    pytest.skip(f"not installed: {' or '.join(names)}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(UVICORN, tmp_path_factory.mktemp("showcase"), "examples.showcase:app") as server:
        yield server
    assert server.complaints() == [], server.log


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    driver = Service(program("chromedriver"))
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium", "chromium-browser", "google-chrome")
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "disable-dev-shm-usage",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "no-first-run",
        "autoplay-policy=no-user-gesture-required",
        "window-size=1200,900",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{argument}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    browser = webdriver.Chrome(options=options, service=driver)
    browser.set_page_load_timeout(DEADLINE)
    browser.set_script_timeout(DEADLINE)
    try:
        yield browser
    finally:
        browser.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, server: Server) -> webdriver.Chrome:
    browser.get(f"{server.url}/")
    return browser


def until(claim: Callable[[], Any]) -> Any:
    """What ``claim`` returns once it is true."""
    deadline = time.monotonic() + DEADLINE
    while not (value := claim()):
        assert time.monotonic() < deadline, "not true in time"
        time.sleep(0.02)
    return value


def text(page: webdriver.Chrome, name: str) -> str:
    shown: str = page.execute_script(
        "const at = document.getElementById(arguments[0]); return at.value ?? at.textContent", name
    )
    return shown


def test_upload_shows_progress_and_what_arrived(page: webdriver.Chrome, tmp_path: Path) -> None:
    """A large file of a form is on its way for a while, and arrives byte by byte with a name in any language."""
    file = tmp_path / "Bücher & Bilder.bin"
    content = bytes(range(256)) * 2**19  # 128 MiB: browsers tell of progress every 50 ms
    file.write_bytes(content)
    page.find_element(By.ID, "file").send_keys(str(file))
    page.find_element(By.ID, "note").send_keys("schön; 100 %")
    page.find_element(By.CSS_SELECTOR, "#upload button").click()
    shown = until(lambda: text(page, "uploaded"))
    assert "Bücher & Bilder.bin" in shown
    assert hashlib.sha256(content).hexdigest() in shown
    assert "schön; 100 %" in shown
    assert "form;dur=" in shown
    progress = page.find_element(By.ID, "progress")
    assert progress.get_attribute("value") == "1"
    assert int(progress.get_attribute("data-steps") or 0) > 1


def test_events_go_on_where_the_connection_was_cut(page: webdriver.Chrome) -> None:
    """The browser comes back with ``Last-Event-ID`` more than once, and no event is lost or comes twice."""
    shown = until(
        lambda: (
            text(page, "connection")
            if int(text(page, "number")) >= 11 and text(page, "connection").startswith("connection ")
            else ""
        )
    )
    assert shown.endswith("lost 0")
    assert int(shown.removeprefix("connection ").split(",")[0]) >= 3


def test_seek_in_sound_asks_for_that_range(page: webdriver.Chrome) -> None:
    """A jump near the end is answered with 206 from there, and the player goes on there."""
    until(lambda: page.execute_script("return document.getElementById('tone').readyState >= 1"))
    assert page.execute_script("return Math.round(document.getElementById('tone').duration)") == 120
    page.execute_script("document.getElementById('tone').currentTime = 100")
    shown = until(lambda: text(page, "range"))
    assert shown.startswith("at 100.0 s")
    answers = page.execute_async_script(
        """
        const done = arguments[0];
        Promise.all(["bytes=0-43", "bytes=-1000", "bytes=9999999-"].map(async (range) => {
          const answer = await fetch("tone.wav", {cache: "no-store", headers: {range}});
          return [answer.status, (await answer.arrayBuffer()).byteLength, answer.headers.get("content-range")];
        })).then(done);
        """
    )
    total = 44 + 2 * 8000 * 120
    assert answers[0] == [206, 44, f"bytes 0-43/{total}"]
    assert answers[1] == [206, 1000, f"bytes {total - 1000}-{total - 1}/{total}"]
    assert answers[2][0] == 416
    assert answers[2][2] == f"bytes */{total}"


@pytest.mark.parametrize("name", ["Grüße aus Köln.txt", "履歴書 最終版.txt"])
def test_download_keeps_its_name_in_any_language(page: webdriver.Chrome, downloads: Path, name: str) -> None:
    """The file is saved under the name that the server gave it, whole."""
    until(lambda: name in text(page, "files"))
    page.find_element(By.LINK_TEXT, name).click()
    saved = downloads / name
    until(lambda: saved.exists() and saved.stat().st_size)
    assert saved.read_text("utf-8").strip()


def test_cookie_counts_visits_out_of_reach_of_scripts(page: webdriver.Chrome) -> None:
    """The browser sends the cookie back, scripts do not see it, and deleting it begins anew."""
    for number in (1, 2, 3):
        page.find_element(By.ID, "visit").click()
        until(lambda number=number: text(page, "visits") == f"visits: {number}")  # type: ignore[misc]
    assert "visits" not in page.execute_script("return document.cookie")
    page.find_element(By.ID, "forget").click()
    until(lambda: text(page, "visits") == "forgotten")
    page.find_element(By.ID, "visit").click()
    until(lambda: text(page, "visits") == "visits: 1")


def test_list_that_has_not_changed_is_not_sent_again(page: webdriver.Chrome) -> None:
    """The second time the browser asks with the tag that it has, and shows what it kept."""
    until(lambda: "Köln" in text(page, "files"))
    sizes = page.execute_async_script(
        """
        const done = arguments[0];
        performance.clearResourceTimings();
        fetch("files").then((answer) => answer.json()).then((names) => {
          const [entry] = performance.getEntriesByName(new URL("files", location.href).href);
          done([names.length, entry.encodedBodySize > 0, entry.transferSize < entry.decodedBodySize + 300]);
        });
        """
    )
    assert sizes == [3, True, True]
    status = page.execute_async_script(
        """
        const done = arguments[0];
        fetch("files", {cache: "no-store"}).then((answer) => {
          fetch("files", {cache: "no-store", headers: {"if-none-match": answer.headers.get("etag")}})
            .then((again) => done(again.status));
        });
        """
    )
    assert status == 304


@pytest.mark.parametrize("width", [320, 390, 760, 1280])
def test_page_fits_any_window(page: webdriver.Chrome, width: int) -> None:
    """Nothing is cut off or scrolled sideways, all begins at the same edge, and no row of cards has a hole."""
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    try:
        shown = page.execute_script(
            """
            const box = (name) => document.querySelector(name).getBoundingClientRect();
            const padding = (name) => parseFloat(getComputedStyle(document.querySelector(name)).paddingLeft);
            const left = (name) => box(name).left + padding(name);
            return {
                overhang: document.documentElement.scrollWidth - document.documentElement.clientWidth,
                edges: ["header", "main", "footer"].map(left),
                ends: [box("section:first-child").left, box("section:last-child").right, left("main"),
                       box("main").right - left("main") + box("main").left],
            };
            """
        )
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert shown["overhang"] == 0
    assert len(set(shown["edges"])) == 1, shown
    first, last, begin, end = shown["ends"]
    assert (round(first), round(last)) == (round(begin), round(end)), shown


def test_script_of_the_page_on_events_hears_them(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """docs/events.md: what it shows for the browser logs what the application above it sends, with the id."""
    (script,) = tried_by("wire/test_browser.py::test_script_of_the_page_on_events_hears_them")
    feed = next(piece for piece in pieces() if piece.page == script.page and piece.language == "python")
    (tmp_path / "feed.py").write_text(feed.text, encoding="utf-8")
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(PROJECT)])}
    with running(UVICORN, tmp_path, "feed:app", path) as server:
        # The stream is short, and the browser shows it as a text: any page of this server would do.
        browser.get(f"{server.url}/")
        browser.execute_script("window.logged = []; console.log = (...values) => logged.push(values);" + script.text)
        until(lambda: browser.execute_script("return logged.length >= 2"))
        assert browser.execute_script("return logged.slice(0, 2)") == [[{"EUR": 1.5}, "1"], ["two\nlines"]]
        browser.get("about:blank")  # it would come again
    assert server.complaints() == [], server.log
