"""For tests of ASGI applications, built on asgicore or not.

Nothing here is imported by the engine.
"""

from __future__ import annotations

from ._rules import Finding as Finding
from .lint import LintError as LintError
from .lint import LintWarning as LintWarning
from .lint import lint as lint

__all__ = ["Finding", "LintError", "LintWarning", "lint"]
