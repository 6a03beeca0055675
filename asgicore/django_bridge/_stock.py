"""Django's own classes, which have no types: to type checkers they have every attribute, of any type.

Bound here once: whoever puts the bridge's classes in the place of Django's, as a test may, is not to be called again
from within them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["DjangoHandler", "DjangoRequest"]

if TYPE_CHECKING:

    class DjangoHandler:
        """``django.core.handlers.asgi.ASGIHandler``."""

        def load_middleware(self, is_async: bool = False) -> None: ...
        def make_view_atomic(self, view: Any) -> Any: ...
        def adapt_method_mode(self, is_async: bool, method: Any, *args: Any, **kwargs: Any) -> Any: ...
        def __getattr__(self, name: str, /) -> Any: ...

    class DjangoRequest:
        """``django.core.handlers.asgi.ASGIRequest``."""

        def __getattr__(self, name: str, /) -> Any: ...

else:
    from django.core.handlers.asgi import ASGIHandler as DjangoHandler
    from django.core.handlers.asgi import ASGIRequest as DjangoRequest
