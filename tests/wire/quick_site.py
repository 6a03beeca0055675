"""The settings of ``examples/django_site``, with passwords that are checked at once: tests log in again and again."""

from mysite.settings import *  # noqa: F403  # as Django's own documentation writes it

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
