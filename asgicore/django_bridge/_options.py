# pyright: basic
# Django has no types of its own.
"""What a site may choose: the arguments of the handler, and ``settings.ASGICORE`` beneath them."""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

__all__ = ["DEFAULTS", "read_options"]

DEFAULTS: Final[dict[str, Any]] = {
    "on_disconnect": "cancel",
    "strict": False,
    "lifespan": None,
    "routes": None,
    "max_workers": 40,
    "max_body_bytes": None,
    "underscores": "drop",
    "preserve_header_case": True,
    "observe": (),
}


def read_options(given: dict[str, Any]) -> dict[str, Any]:
    """The options of a handler: what was given, else what the setting says, else the defaults.

    Raises:
        ImproperlyConfigured: The setting is no mapping, or has a key that is none.
    """
    chosen: Any = getattr(settings, "ASGICORE", {})
    known = {name.upper(): name for name in DEFAULTS}
    if not isinstance(chosen, dict):
        raise ImproperlyConfigured(f"the setting ASGICORE takes a dictionary, not {type(chosen).__name__}")
    for key in chosen:
        if key not in known:
            raise ImproperlyConfigured(f"the setting ASGICORE does not know {key!r}; it knows {', '.join(known)}")
    return {**DEFAULTS, **{known[key]: value for key, value in chosen.items()}, **given}
