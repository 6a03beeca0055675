"""A Flask site on an ASGI server: form, upload, download and session.

    pip install flask uvicorn asgicore
    uvicorn examples.flask_site:app

Any other ASGI server will do: ``hypercorn -k trio examples.flask_site:app``. From a shell::

    curl --data-binary @large.iso http://127.0.0.1:8000/upload
    curl --no-buffer http://127.0.0.1:8000/count?to=5
"""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, redirect, render_template_string, request, send_from_directory, session, stream_with_context
from flask.typing import ResponseReturnValue

from asgicore import Limits
from asgicore.wsgi_bridge import WSGIHandler

site = Flask(__name__)
# Sessions end with the process. A real site reads its key from its configuration: all its processes share one.
site.secret_key = secrets.token_bytes(32)
site.config["SESSION_COOKIE_SAMESITE"] = "Lax"

_directory = tempfile.TemporaryDirectory(prefix="flask-site-")  # removed at exit
UPLOADS = Path(_directory.name)


@site.get("/")
def index() -> ResponseReturnValue:
    session["visits"] = session.get("visits", 0) + 1
    files = sorted(path.name for path in UPLOADS.iterdir())
    return render_template_string(PAGE, files=files)


@site.post("/name")
def name() -> ResponseReturnValue:
    """A form: the name goes into the session, and the browser back to the page."""
    session["name"] = request.form["name"][:100]
    response = redirect("/", 303)
    response.set_cookie("greeted", "1", samesite="Lax")
    return response


@site.post("/upload")
def upload() -> ResponseReturnValue:
    """Keep a file under its SHA-256. It is whole by now: asgicore has spooled it, and took no thread for that."""
    # A form has the file among its fields; anything else is the file itself.
    source = request.files["file"].stream if "file" in request.files else request.stream
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=_directory.name, prefix=".", delete=False) as file:
        while block := source.read(2**20):
            digest.update(block)
            file.write(block)
    Path(file.name).replace(UPLOADS / digest.hexdigest())
    return {"size": (UPLOADS / digest.hexdigest()).stat().st_size, "sha256": digest.hexdigest()}


@site.get("/files/<sha256>")
def download(sha256: str) -> ResponseReturnValue:
    """A file of any size; Flask hands it over, and asgicore sends it."""
    return send_from_directory(UPLOADS, sha256, as_attachment=True, mimetype="application/octet-stream")


@site.get("/count")
def count() -> ResponseReturnValue:
    """A stream: each line is there when it is counted. If the client leaves, it stops at its next line."""

    def lines() -> Iterator[str]:
        for number in range(request.args.get("to", 10, type=int)):
            yield f"{number + 1} for {session.get('name', 'you')}\n"
            time.sleep(0.1)

    return stream_with_context(lines()), {"content-type": "text/plain; charset=utf-8"}


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Flask on asgicore</title>
<link rel="icon" href="data:,">
<style>body { max-width: 40rem; margin: 3rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif }</style>
<h1>Hello, {{ session.name or "stranger" }}!</h1>
<p>Visit number {{ session.visits }}. <a href="count">Count to ten</a>, line by line.</p>
<form action="name" method="post"><label>Name <input name="name" required></label> <button>Save</button></form>
<form action="upload" method="post" enctype="multipart/form-data">
  <label>File <input name="file" type="file" required></label> <button>Upload</button>
</form>
<ul>{% for file in files %}<li><a href="files/{{ file }}">{{ file }}</a></li>{% endfor %}</ul>
</html>
"""

# The default of 16 MiB is right for forms; this is the space that one upload may take on the disk.
app = WSGIHandler(site, limits=Limits(max_body_bytes=2**30))
