"""Uploads of any size, and a stream that reports progress: ``uvicorn examples.upload:app``.

``GET /`` is a page that tries both, ``POST /upload`` answers with the size and the SHA-256 of its body, and
``GET /progress`` streams one line for each step of a job. From a shell::

    curl --data-binary @large.iso http://127.0.0.1:8000/upload
    curl --no-buffer http://127.0.0.1:8000/progress?steps=5
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import IO

import anyio
from anyio.to_thread import run_sync

from asgicore import Handler, HTMLResponse, HTTPError, JSONResponse, Limits, Request, Response, StreamingResponse

# The default of 16 MiB is right for forms. What a body beyond the spool threshold costs is disk and not memory, so
# this is the space that one request may take in the directory for temporary files (TMPDIR).
LIMITS = Limits(max_body_bytes=64 * 2**30)

MAX_STEPS = 1000


async def index(request: Request) -> Response:
    return HTMLResponse(PAGE)


async def upload(request: Request) -> Response:
    """By now the whole body is here: a small one in memory, a larger one in a temporary file."""
    file = await request.file()
    # Reading a file and hashing both block: a worker thread does them, and the event loop serves others meanwhile.
    size, sha256 = await run_sync(measure, file)
    return JSONResponse({"size": size, "sha256": sha256})


def measure(file: IO[bytes]) -> tuple[int, str]:
    """The size and the SHA-256 of a file."""
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    return file.tell(), digest.hexdigest()


async def progress(request: Request) -> Response:
    try:
        steps = int(request.query_params.get("steps", "20"))
    except ValueError:
        steps = 0
    if not 1 <= steps <= MAX_STEPS:
        raise HTTPError(400, f"steps takes a number from 1 to {MAX_STEPS}")
    # Tell proxies and browsers that keep a copy or gather a stream to leave it alone.
    headers = {"cache-control": "no-store", "x-accel-buffering": "no", "x-content-type-options": "nosniff"}
    return StreamingResponse(run_job(steps), headers=headers, content_type="text/plain; charset=utf-8")


async def run_job(steps: int) -> AsyncIterator[str]:
    """A job that says how far it is. If the client leaves, it is cancelled where it waits."""
    for step in range(1, steps + 1):
        await anyio.sleep(0.1)  # stands for a query, a call of another service, a part of a calculation
        yield f"step {step} of {steps}\n"
    yield "done\n"


ROUTES = {
    "/": ("GET", index),
    "/progress": ("GET", progress),
    "/upload": ("POST", upload),
}


async def endpoint(request: Request) -> Response:
    if request.path_info not in ROUTES:
        raise HTTPError(404)
    method, function = ROUTES[request.path_info]
    allowed = (method, "HEAD") if method == "GET" else (method,)
    if request.method not in allowed:
        raise HTTPError(405, headers={"allow": ", ".join(allowed)})
    return await function(request)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>asgicore: upload and progress</title>
<link rel="icon" href="data:,">
<style>
  :root {
    color-scheme: light dark;
    --page: light-dark(#f3f5f8, #12151b); --card: light-dark(#fff, #1b2029); --text: light-dark(#1c2430, #e4e8ef);
    --quiet: light-dark(#5d6878, #98a3b3); --line: light-dark(#dbe1ea, #303846); --well: light-dark(#f6f8fb, #141820);
    --accent: light-dark(#2459d6, #7ba4ff); --on-accent: light-dark(#fff, #0d1530);
    --good: light-dark(#157347, #5fd39b); --bad: light-dark(#b3261e, #ff8f85);
  }
  * { box-sizing: border-box; }
  [hidden] { display: none !important; }
  body { margin: 0; padding: 3rem 1.25rem; background: var(--page); color: var(--text);
    font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
  main { max-width: 44rem; margin: auto; }
  h1 { margin: 0; font-size: 1.9rem; letter-spacing: -.02em; line-height: 1.2; }
  h2 { margin: 0 0 .25rem; font-size: 1.15rem; }
  p { margin: 0 0 1rem; color: var(--quiet); }
  header { margin-bottom: 1.75rem; }
  header p { margin-top: .4rem; }
  section { margin-bottom: 1.25rem; padding: 1.5rem; background: var(--card); border: 1px solid var(--line);
    border-radius: 14px; box-shadow: 0 1px 2px rgb(15 23 42 / 5%), 0 8px 24px rgb(15 23 42 / 5%); }
  .drop { display: block; padding: 1.6rem 1rem; text-align: center; border: 2px dashed var(--line); border-radius: 10px;
    background: var(--well); color: var(--quiet); cursor: pointer; transition: border-color .15s; }
  .drop strong { color: var(--accent); }
  .drop:hover, .drop.over, .drop:focus-within { border-color: var(--accent); }
  .drop input { position: absolute; width: 1px; height: 1px; opacity: 0; }
  .row { display: flex; gap: .75rem; align-items: center; flex-wrap: wrap; margin-top: 1rem; }
  button { padding: .5rem 1.1rem; border: 1px solid transparent; border-radius: 8px; font: inherit; font-weight: 600;
    background: var(--accent); color: var(--on-accent); cursor: pointer; }
  button.plain { background: none; color: var(--text); border-color: var(--line); }
  button:disabled { opacity: .45; cursor: default; }
  button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
  progress { appearance: none; display: block; width: 100%; height: 10px; margin-top: 1rem; border: 0;
    border-radius: 5px; overflow: hidden; background: var(--line); color: var(--accent); }
  progress::-webkit-progress-bar { background: var(--line); }
  progress::-webkit-progress-value { background: var(--accent); border-radius: 5px; transition: width .1s; }
  progress::-moz-progress-bar { background: var(--accent); border-radius: 5px; }
  output { display: block; min-height: 1.55em; color: var(--quiet); font-variant-numeric: tabular-nums; }
  .row output { flex: 1; }
  output.good { color: var(--good); }
  output.bad { color: var(--bad); }
  dl { display: grid; grid-template-columns: auto 1fr; gap: .3rem 1rem; margin: 1rem 0 0; }
  dt { color: var(--quiet); }
  dd { margin: 0; overflow-wrap: anywhere; }
  code, pre { font: .875em/1.6 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
  pre { height: 9.5rem; margin: 1rem 0 0; padding: .7rem .9rem; overflow: auto; border: 1px solid var(--line);
    border-radius: 10px; background: var(--well); }
  footer { color: var(--quiet); font-size: .9rem; }
</style>
</head>
<body>
<main>
  <header>
    <h1>Upload and progress</h1>
    <p>Two things an ASGI application has to get right, served by asgicore.</p>
  </header>

  <section aria-labelledby="upload-title">
    <h2 id="upload-title">Upload a file</h2>
    <p>A file of any size goes to disk as it arrives. Its SHA-256 comes back.</p>
    <label class="drop" id="drop"><input type="file" id="file"><strong>Choose a file</strong> or drop one here</label>
    <progress id="upload-bar" max="1" value="0" aria-label="Upload"></progress>
    <div class="row">
      <output id="upload-state">No file yet.</output>
      <button class="plain" id="upload-stop" disabled>Cancel</button>
    </div>
    <dl id="result" hidden>
      <dt>Size</dt><dd id="size"></dd>
      <dt>SHA-256</dt><dd><code id="sha256"></code></dd>
    </dl>
  </section>

  <section aria-labelledby="stream-title">
    <h2 id="stream-title">Watch a job</h2>
    <p>The response is a stream: each line is here as soon as its step is done. Stop, and the job is cancelled.</p>
    <div class="row">
      <button id="stream-start">Start the job</button>
      <button class="plain" id="stream-stop" disabled>Stop</button>
      <output id="stream-state"></output>
    </div>
    <progress id="stream-bar" max="1" value="0" aria-label="Job"></progress>
    <pre id="lines" aria-live="polite" tabindex="0"></pre>
  </section>

  <footer>The same from a shell: <code>curl --data-binary @file <span class="origin"></span>/upload</code></footer>
</main>
<script>
  "use strict";
  const $ = (id) => document.getElementById(id);
  const say = (id, text, kind = "") => { $(id).textContent = text; $(id).className = kind; };
  const bytes = (count) => {
    const units = ["bytes", "KiB", "MiB", "GiB"];
    let unit = 0;
    for (; count >= 1024 && unit < units.length - 1; unit++) count /= 1024;
    return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
  };
  document.querySelector(".origin").textContent = location.origin;

  // fetch() cannot tell how much of an upload has left; XMLHttpRequest can.
  let request = null;
  function send(file) {
    request?.abort();
    const current = request = new XMLHttpRequest();
    const begun = performance.now();
    $("result").hidden = true;
    $("upload-bar").value = 0;
    $("upload-stop").disabled = false;
    say("upload-state", `${file.name}: starting`);
    current.upload.onprogress = (event) => {
      if (!event.total) return;
      $("upload-bar").value = event.loaded / event.total;
      const rate = event.loaded / ((performance.now() - begun) / 1000);
      say("upload-state", `${bytes(event.loaded)} of ${bytes(event.total)}, ${bytes(rate)}/s`);
    };
    current.upload.onload = () => { $("upload-bar").value = 1; say("upload-state", "Arrived. Hashing."); };
    current.onload = () => {
      if (current.status !== 200) return say("upload-state", `${current.status}: ${current.responseText}`, "bad");
      const answer = JSON.parse(current.responseText);
      const whole = answer.size === file.size;
      $("size").textContent = `${answer.size.toLocaleString("en")} bytes`;
      $("sha256").textContent = answer.sha256;
      $("result").hidden = false;
      const seconds = ((performance.now() - begun) / 1000).toFixed(1);
      if (whole) say("upload-state", `${file.name} arrived in ${seconds} s.`, "good");
      else say("upload-state", "The size is not that of the file.", "bad");
    };
    current.onerror = () => say("upload-state", "The connection failed.", "bad");
    current.onabort = () => {
      if (current === request) say("upload-state", "Cancelled. Nothing of it is left on the server.");
    };
    current.onloadend = () => { if (current === request) $("upload-stop").disabled = true; };
    current.open("POST", "upload");
    current.send(file);
  }
  $("file").onchange = () => { if ($("file").files.length) send($("file").files[0]); };
  // The same file can be chosen again.
  $("file").onclick = () => { $("file").value = ""; };
  $("upload-stop").onclick = () => request?.abort();
  $("drop").ondragover = (event) => { event.preventDefault(); $("drop").classList.add("over"); };
  $("drop").ondragleave = () => $("drop").classList.remove("over");
  $("drop").ondrop = (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
  };

  let job = null;
  async function watch() {
    job = new AbortController();
    $("lines").textContent = "";
    $("stream-bar").value = 0;
    $("stream-start").disabled = true;
    $("stream-stop").disabled = false;
    say("stream-state", "Running.");
    try {
      const response = await fetch("progress?steps=30", { signal: job.signal });
      if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ;) {
        const { value, done } = await reader.read();
        if (done) break;
        // A part may end within a line.
        const lines = (rest + value).split("\\n");
        rest = lines.pop();
        for (const line of lines) {
          $("lines").append(line + "\\n");
          const step = /^step (\\d+) of (\\d+)$/.exec(line);
          if (step) $("stream-bar").value = step[1] / step[2];
        }
        $("lines").scrollTop = $("lines").scrollHeight;
      }
      say("stream-state", "Done.", "good");
    } catch (error) {
      if (error.name === "AbortError") say("stream-state", "Stopped. The server has cancelled the job.");
      else say("stream-state", error.message, "bad");
    } finally {
      $("stream-start").disabled = false;
      $("stream-stop").disabled = true;
    }
  }
  $("stream-start").onclick = watch;
  $("stream-stop").onclick = () => job?.abort();
</script>
</body>
</html>
"""

app = Handler(endpoint, limits=LIMITS)
