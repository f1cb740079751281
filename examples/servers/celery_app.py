"""
Celery's prefork workers without a framework: a pool for each child, opened by its first task.

    celery --app celery_app worker --pool prefork --concurrency 2

The pool is made before the fork, and may even be open there: children leave its sessions alone. A child runs no
`atexit`, so it closes its pool when Celery says that it ends; a child that is killed leaves a lease that lapses.
"""

import os

from celery import Celery
from celery.signals import worker_process_shutdown

from vault_pool import VaultPool

app = Celery("shop", broker=os.environ.get("BROKER", "memory://"), backend=os.environ.get("RESULTS", "cache+memory://"))
# Where it is, and how to come by a credential, is in the environment: VAULT_POOL_CONNINFO, VAULT_POOL_ROLE, VAULT_ADDR.
pool = VaultPool.from_env(min_size=1, max_size=2)


@worker_process_shutdown.connect
def close_pool(**_: object) -> None:
    """
    End the lease of a child.
    """
    pool.close()


@app.task
def whoami() -> tuple[int, int, str]:
    """
    Tell which process and which session work on this task, and as whom.
    """
    pool.open(wait=False)
    with pool.connection() as conn:
        row = conn.execute("SELECT pg_backend_pid(), session_user").fetchone()
    return os.getpid(), row[0], row[1]


@app.task
def rotate() -> int:
    """
    Rotate the credential of the child that gets this task; for experiments.
    """
    pool.open(wait=False)
    pool.rotate()
    return pool.status().generation
