"""Whether a callable is asynchronous: decided once, when it is handed over."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from typing import Any, cast

# Before 3.12 only asyncio's own function honours asgiref's marker; from 3.14 on it is deprecated.
_is_marked = inspect.iscoroutinefunction if sys.version_info >= (3, 12) else asyncio.iscoroutinefunction


def is_async_callable(target: Any) -> bool:
    """Whether calling ``target`` gives an awaitable.

    Looks through partials and bound methods, at ``__call__`` of objects, and honours
    ``inspect.markcoroutinefunction`` and asgiref's twin of it.
    """
    target = _unwrap(target)
    if _is_marked(target):
        return True
    # Calling a class makes an instance, whatever its __call__ is. Looked up without binding: what is found may be
    # a partial, which from 3.13 on warns when it is bound.
    return not inspect.isclass(target) and _is_marked(
        _unwrap(inspect.getattr_static(cast("type[object]", type(target)), "__call__", None))
    )


def _unwrap(target: Any) -> Any:
    while True:
        if isinstance(target, functools.partial):
            target = target.func
        elif isinstance(target, (staticmethod, classmethod)):
            target = cast("Any", target).__func__
        else:
            return target
