"""``python -m asgicore.django_bridge``: what a project gains, and what keeps it from gaining more."""

from __future__ import annotations

import sys

from ._check import main

if __name__ == "__main__":
    sys.exit(main())
