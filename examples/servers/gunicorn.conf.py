"""
gunicorn, with the application loaded, and even a pool opened, before the workers are forked.

    gunicorn -c gunicorn.conf.py app:app

Each worker leaves the sessions of its parent alone, and opens its own with its first request.
"""

import os
from typing import Any
from wsgiref.util import setup_testing_defaults

bind = os.environ.get("BIND", "127.0.0.1:8000")
workers = int(os.environ.get("WORKERS", "2"))
worker_class = os.environ.get("WORKER_CLASS", "gthread")
threads = int(os.environ.get("THREADS", "4"))
preload_app = os.environ.get("PRELOAD", "1") == "1"
loglevel = "warning"
# A worker that ends waits for its requests, then tells Vault that its lease is over.
graceful_timeout = 30


def when_ready(server: Any) -> None:
    """
    Let the parent answer one request before it forks, WARM_UP=/whoami for example: then it has a pool that is open.
    """
    if "WARM_UP" in os.environ:
        environ = {"PATH_INFO": os.environ["WARM_UP"]}
        setup_testing_defaults(environ)
        answer = server.app.wsgi()(environ, lambda *_: None)
        list(answer)
        answer.close()
