"""
Celery with Django: nothing of it is about the pool.

    celery --app shop.celery worker --pool prefork --concurrency 2

Celery's fixup for Django closes connections around each task, which gives them back to the pool of the child. Where the
pool is configured in VAULT, and not in OPTIONS["pool"], it leaves the pool itself alone.
"""

import os

from celery import Celery
from celery.signals import worker_process_shutdown

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

app = Celery("shop", broker=os.environ.get("BROKER", "memory://"), backend=os.environ.get("RESULTS", "cache+memory://"))


@worker_process_shutdown.connect
def end_pools(**_: object) -> None:
    """
    End the leases of a child, which runs no `atexit`.
    """
    from django.db import connections  # noqa: PLC0415 - settings first

    for connection in connections.all(initialized_only=True):
        connection.close()
        connection.end_pool()


@app.task
def whoami() -> tuple[int, int, str]:
    """
    Tell which process and which session work on this task, and as whom.
    """
    from django.db import connection  # noqa: PLC0415 - settings first

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), session_user")
        backend, user = cursor.fetchone()
    return os.getpid(), backend, user


@app.task
def rotate() -> int:
    """
    Rotate the credential of the child that gets this task; for experiments.
    """
    from django.db import connection  # noqa: PLC0415 - settings first

    connection.pool.open()
    connection.pool.rotate()
    generation: int = connection.pool.status().generation
    return generation
