"""``python -m asgicore check module:app``: a battery of requests and faults against an application.

The command (``command``, ``report``) starts a process with the application in it (``processes``, ``worker``), which
runs the probes (``probes`` lists them) one after the other. Each has the tools of ``probing``, ``exchange`` and
``watch``, and reports what breaks one of the ``rules``.
"""
