"""A Django site on asgicore: this file is the whole difference, and its one import is all of it.

From this directory, the one that holds ``manage.py``::

    pip install "asgicore[django,server]"
    python manage.py migrate
    python manage.py createsuperuser
    python manage.py fill 1000
    DEBUG=1 python -m uvicorn mysite.asgi:application

The site is at http://127.0.0.1:8000/. Any other ASGI server on asyncio or uvloop will do, for instance
``python -m granian --interface asgi mysite.asgi:application``. ``DEBUG=1`` also serves the style sheets of the admin;
a real site leaves it out and has ``collectstatic`` and its web server do that. From a shell::

    curl --no-buffer "http://127.0.0.1:8000/notes.csv?pause=0.5"
    curl --no-buffer http://127.0.0.1:8000/events/
    curl http://127.0.0.1:8000/status/

The site is kept in SQLite beside ``manage.py``. With PostgreSQL (``pip install "psycopg[binary]"``)::

    export DATABASE_ENGINE=django.db.backends.postgresql DATABASE_NAME=site DATABASE_USER=site DATABASE_HOST=127.0.0.1
"""

import os

from asgicore.django_bridge import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

application = get_asgi_application()
