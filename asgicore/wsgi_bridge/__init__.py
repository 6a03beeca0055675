"""WSGI on ASGI, and the other way round (PEP 3333).

::

    from asgicore.wsgi_bridge import WSGIHandler, as_wsgi

    app = WSGIHandler(flask_app)       # any WSGI application, for an ASGI server
    application = as_wsgi(asgi_app)    # any ASGI application, for a WSGI server
"""

from __future__ import annotations

from ._as_wsgi import WSGIApplication as WSGIApplication
from ._as_wsgi import as_wsgi as as_wsgi
from ._handler import FileWrapper as FileWrapper
from ._handler import WSGIHandler as WSGIHandler

__all__ = ["FileWrapper", "WSGIApplication", "WSGIHandler", "as_wsgi"]
