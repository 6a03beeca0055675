"""One view of each kind: synchronous and asynchronous, short and long, whole and streamed."""

import asyncio
import csv
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import BadRequest
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import conditional_page, require_safe

from . import counts
from .models import Note, Upload

logger = logging.getLogger(__name__)

MIB = 2**20


def number(request: HttpRequest, name: str, default: float, most: float) -> float:
    """A number of the query string, from 0 to ``most``."""
    try:
        value = float(request.GET.get(name, default))
    except ValueError:
        value = -1
    if not 0 <= value <= most:
        raise BadRequest(f"{name} takes a number from 0 to {most:g}")
    return value


# --- pages ---------------------------------------------------------------------------------------------------


@require_safe
@conditional_page
def index(request: HttpRequest) -> HttpResponse:
    """A page from the database; the answer is 304 while it stays the same."""
    context = {
        "notes": Note.objects.order_by("-pk")[:5],
        "count": Note.objects.count(),
        "uploads": Upload.objects.order_by("-pk")[:10],
    }
    return render(request, "notes/index.html", context)


class UploadForm(forms.ModelForm):
    class Meta:
        model = Upload
        fields = ("file",)


def upload(request: HttpRequest) -> HttpResponse:
    """Keep a file, with its size and its hash. The request is whole by now: a truncated one comes to no view."""
    form = UploadForm()
    if request.method == "POST":
        logger.info("upload of %s bytes", request.META.get("CONTENT_LENGTH"))
        form = UploadForm(request.POST, request.FILES)
        if form.is_valid():
            kept = form.save(commit=False)
            digest = hashlib.sha256()
            for chunk in kept.file.chunks():
                digest.update(chunk)
            kept.size, kept.sha256 = kept.file.size, digest.hexdigest()
            kept.save()
            messages.success(request, f"{kept.file.name} is kept.")
            return redirect("index")
    return render(request, "notes/upload.html", {"form": form})


# --- files ---------------------------------------------------------------------------------------------------


@require_safe
def download(request: HttpRequest, pk: int) -> FileResponse:
    """A file that was uploaded."""
    return FileResponse(get_object_or_404(Upload, pk=pk).file.open(), as_attachment=True)


@require_safe
def big(request: HttpRequest) -> FileResponse:
    """A file of ``?mib=``, made for this answer and gone with it."""
    file = tempfile.TemporaryFile()
    for index in range(int(number(request, "mib", 64, most=1024))):
        file.write(index.to_bytes(4, "big") * (MIB // 4))
    file.seek(0)
    return FileResponse(file, as_attachment=True, filename="big.bin")


# --- streams: rows with a ``?pause=`` between them, in seconds -----------------------------------------------


@require_safe
def notes_csv(request: HttpRequest) -> StreamingHttpResponse:
    """A generator in a thread. If the client leaves, it is closed where it stands."""
    pause = number(request, "pause", 0, most=10)

    class Line:
        """A file for the writer that hands each line back."""

        def write(self, line: str) -> str:
            return line

    def lines() -> Iterator[str]:
        with counts.counted("csv"):
            writer = csv.writer(Line())
            yield writer.writerow(["id", "title", "created"])
            for note in Note.objects.order_by("pk").iterator(chunk_size=100):
                time.sleep(pause)
                yield writer.writerow([note.pk, note.title, note.created.isoformat()])

    return StreamingHttpResponse(lines(), content_type="text/csv; charset=utf-8")


@require_safe
async def notes_ndjson(request: HttpRequest) -> StreamingHttpResponse:
    """The same, asynchronously. If the client leaves, it is cancelled where it waits."""
    pause = number(request, "pause", 0, most=10)

    async def lines() -> AsyncIterator[str]:
        with counts.counted("ndjson"):
            async for note in Note.objects.order_by("pk").aiterator(chunk_size=100):
                yield json.dumps({"id": note.pk, "title": note.title}) + "\n"
                await asyncio.sleep(pause)

    return StreamingHttpResponse(lines(), content_type="application/x-ndjson")


@require_safe
async def events(request: HttpRequest) -> StreamingHttpResponse:
    """Server-sent events without end, for an ``EventSource`` in a page."""

    async def ticks() -> AsyncIterator[str]:
        with counts.counted("events"):
            while True:
                yield f"data: {timezone.now().isoformat()}\n\n"
                await asyncio.sleep(0.2)

    response = StreamingHttpResponse(ticks(), content_type="text/event-stream")
    response["Cache-Control"] = "no-cache"
    return response


# --- for programs --------------------------------------------------------------------------------------------


@require_safe
async def api_notes(request: HttpRequest) -> JsonResponse:
    """The database, asked asynchronously."""
    latest = [{"id": note.pk, "title": note.title} async for note in Note.objects.order_by("-pk")[:5]]
    return JsonResponse({"count": await Note.objects.acount(), "latest": latest})


@require_safe
def slow(request: HttpRequest) -> JsonResponse:
    """Synchronous work of ``?seconds=``, in small steps."""
    end = time.monotonic() + number(request, "seconds", 1, most=60)
    steps = 0
    with counts.counted("slow"):
        while time.monotonic() < end:
            time.sleep(0.02)
            steps += 1
    return JsonResponse({"steps": steps})


@require_safe
async def status(request: HttpRequest) -> JsonResponse:
    """Threads, open connections to the database, and streams of this process."""
    return JsonResponse({"process": os.getpid(), **counts.snapshot()})


@require_safe
async def health(request: HttpRequest) -> HttpResponse:
    """For a load balancer: this process answers, and so does its database."""
    await Note.objects.aexists()
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
def broken(request: HttpRequest) -> Any:
    """A view that fails: the visitor sees ``500.html``, and the log has the traceback."""
    raise RuntimeError("this view is broken")
