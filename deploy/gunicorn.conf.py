"""
gunicorn for the shop: each worker has a pool, and a lease, of its own.
"""

from typing import Any

wsgi_app = "shop:application"
bind = "0.0.0.0:8000"  # inside of the container; who may reach it is said in docker-compose.yml
workers = 2
worker_class = "gthread"
threads = 8
keepalive = 75
graceful_timeout = 20
worker_tmp_dir = "/dev/shm"


def post_worker_init(worker: Any) -> None:
    """Open the pool after the fork, before the first request."""
    import shop

    shop.pool.open()


def worker_exit(server: Any, worker: Any) -> None:
    """Give connections back and end the lease, so that no role stays behind."""
    import shop

    shop.pool.close()
