"""Media types by the ending of a name: a table of our own, for the same answer on every machine.

What browsers and sites use, by IANA's registry and the WHATWG's MIME Sniffing; not the machine's own files, which
differ, and which others may change.
"""

from __future__ import annotations

from typing import Final

__all__ = ["UNKNOWN", "media_type_of"]

UNKNOWN: Final = "application/octet-stream"
"""Offered for saving, and never run or shown by a browser."""

_TABLE: Final = """
application/atom+xml              atom
application/epub+zip              epub
application/geo+json              geojson
application/gzip                  gz tgz
application/java-archive          jar
application/json                  json map
application/ld+json               jsonld
application/manifest+json         webmanifest
application/msword                doc dot
application/ogg                   ogx
application/pdf                   pdf
application/postscript            ai eps ps
application/rss+xml               rss
application/rtf                   rtf
application/vnd.amazon.ebook      azw
application/vnd.android.package-archive  apk
application/vnd.apple.installer+xml      mpkg
application/vnd.apple.mpegurl     m3u8
application/vnd.debian.binary-package    deb
application/vnd.google-earth.kml+xml     kml
application/vnd.google-earth.kmz  kmz
application/vnd.ms-excel          xls xlt
application/vnd.ms-fontobject     eot
application/vnd.ms-powerpoint     pps ppt
application/vnd.oasis.opendocument.graphics      odg
application/vnd.oasis.opendocument.presentation  odp
application/vnd.oasis.opendocument.spreadsheet   ods
application/vnd.oasis.opendocument.text          odt
application/vnd.openxmlformats-officedocument.presentationml.presentation  pptx
application/vnd.openxmlformats-officedocument.spreadsheetml.sheet          xlsx
application/vnd.openxmlformats-officedocument.wordprocessingml.document    docx
application/vnd.rar               rar
application/vnd.sqlite3           db sqlite sqlite3
application/vnd.visio             vsd
application/wasm                  wasm
application/x-7z-compressed       7z
application/x-apple-diskimage     dmg
application/x-bzip2               bz2
application/x-rpm                 rpm
application/x-sh                  sh
application/x-tar                 tar
application/x-xz                  xz
application/xhtml+xml             xht xhtml
application/xml                   xml xsd xsl
application/xslt+xml              xslt
application/yaml                  yaml yml
application/zip                   zip
application/zstd                  zst
audio/aac                         aac
audio/flac                        flac
audio/midi                        mid midi
audio/mp4                         m4a
audio/mpeg                        mp3
audio/ogg                         oga ogg opus
audio/wav                         wav
audio/webm                        weba
audio/x-aiff                      aif aiff
font/collection                   ttc
font/otf                          otf
font/ttf                          ttf
font/woff                         woff
font/woff2                        woff2
image/apng                        apng
image/avif                        avif
image/bmp                         bmp
image/gif                         gif
image/heic                        heic
image/heif                        heif
image/jpeg                        jfif jpe jpeg jpg
image/jxl                         jxl
image/png                         png
image/svg+xml                     svg
image/tiff                        tif tiff
image/vnd.adobe.photoshop         psd
image/vnd.microsoft.icon          cur ico
image/webp                        webp
message/rfc822                    eml
model/gltf+json                   gltf
model/gltf-binary                 glb
model/stl                         stl
text/calendar                     ics
text/css                          css
text/csv                          csv
text/html                         htm html
text/javascript                   cjs js mjs
text/markdown                     markdown md
text/plain                        conf ini log text toml txt
text/tab-separated-values         tsv
text/vcard                        vcf
text/vtt                          vtt
text/x-python                     py
video/mp2t                        ts
video/mp4                         m4v mp4 mpg4
video/mpeg                        mpeg mpg
video/ogg                         ogv
video/quicktime                   mov qt
video/webm                        webm
video/x-matroska                  mkv
video/x-msvideo                   avi
"""


def _read(table: str) -> dict[str, str]:
    types: dict[str, str] = {}
    for line in table.strip().splitlines():
        media_type, *endings = line.split()
        # Text that says nothing is taken for whatever the reader's machine uses.
        full = f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
        types.update(dict.fromkeys(endings, full))
    return types


_TYPES: Final = _read(_TABLE)

# No ending is longer: a name may be, and its end is put in lower case.
_LONGEST: Final = max(map(len, _TYPES))


def media_type_of(name: str) -> str:
    """The media type for a file of this name or path; ``UNKNOWN`` if the ending tells nothing.

    Of two endings the last one counts: ``.tar.gz`` is ``application/gzip``, and goes out as it is.
    """
    stem, dot, ending = name.rpartition(".")
    if not dot or not stem or len(ending) > _LONGEST:
        return UNKNOWN
    return _TYPES.get(ending.lower(), UNKNOWN)
