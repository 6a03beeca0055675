"""``asgicore.testing.lint(app)``: every message of an application and of its server held against the specifications.

``lint`` stands between the two, ``http``, ``lifespan``, ``scope`` and ``fields`` judge, ``rules`` says by what.
"""
