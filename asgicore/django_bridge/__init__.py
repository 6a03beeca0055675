# pyright: basic
# Django has no types of its own.
"""Django on the engine: one import changed.

::

    from asgicore.django_bridge import get_asgi_application

    application = get_asgi_application()
"""

from __future__ import annotations

try:
    import django as _django
except ImportError as _error:
    _needed = "asgicore.django_bridge needs Django; install it with: pip install 'asgicore[django]'"
    raise ImportError(_needed) from _error

import asgiref as _asgiref

if _django.VERSION < (5, 2) or tuple(int(number) for number in _asgiref.__version__.split(".")[:2]) < (3, 13):
    raise ImportError(
        f"asgicore.django_bridge needs Django 5.2 and asgiref 3.13, or later ones; here are Django "
        f"{_django.get_version()} and asgiref {_asgiref.__version__}; update with: pip install 'asgicore[django]'"
    )

from ._handler import ASGIHandler as ASGIHandler
from ._handler import get_asgi_application as get_asgi_application
from ._request import ASGIRequest as ASGIRequest

__all__ = ["ASGIHandler", "ASGIRequest", "get_asgi_application"]
