"""
Workers that are forked or spawned: Celery with and without Django, and multiprocessing.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fix_vault import VaultServer, development_server
from tests.served import EXAMPLES, environment

CELERY = {
    "alone": (EXAMPLES / "servers", "celery_app"),
    "django": (EXAMPLES / "django_shop", "shop.celery"),
}


@pytest.fixture(scope="module")
def vault():
    with development_server() as server:
        yield server


@pytest.fixture
def variables(vault, database, tmp_path):
    """The environment of the examples, with a broker that is a folder."""
    server = VaultServer(vault.kind, vault.address, vault.root_token)
    server.database_role(database, "shop")
    for name in ("queue", "results"):
        (tmp_path / name).mkdir()
    yield environment(
        server,
        database,
        VAULT_POOL_CONNINFO=database.conninfo(),
        VAULT_POOL_ROLE="shop",
        VAULT_POOL_MOUNT_POINT=server.mount,
        BROKER="filesystem://",
        RESULTS=f"file://{tmp_path}/results",
        QUEUE=str(tmp_path / "queue"),
    )
    server.close()


# The queue is a folder: what the example leaves to a broker is set here, by a module that Celery is told to import.
_QUEUE = """
import os
from {module} import app, rotate, whoami
app.conf.update(broker_transport_options=dict.fromkeys(
    ["data_folder_in", "data_folder_out", "control_folder"], os.environ["QUEUE"]),
    worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)
"""
_CLIENT = """
from queue_of_the_test import rotate, whoami
told = [whoami.delay() for _ in range(8)]
print(*[each.get(timeout=60) for each in told], sep="\\n")
print([rotate.delay().get(timeout=60) for _ in range(4)])
print(*[each.get(timeout=60) for each in [whoami.delay() for _ in range(8)]], sep="\\n")
"""


@pytest.mark.skipif(importlib.util.find_spec("celery") is None, reason="Celery is not installed")
@pytest.mark.parametrize("kind", CELERY)
@pytest.mark.timeout(240)
def test_celerys_children_have_leases_of_their_own(kind, variables, database, tmp_path):
    """Every task is done, through rotations, by a session of its own child; a warm shutdown leaves no role."""
    folder, module = CELERY[kind]
    (tmp_path / "queue_of_the_test.py").write_text(_QUEUE.format(module=module))
    variables["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(folder)])
    log = (tmp_path / "log").open("wb")
    command = ["celery", "--app", "queue_of_the_test", "worker", "--pool=prefork", "--concurrency=2", "--loglevel=INFO"]
    more = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    worker = subprocess.Popen([*command, *more], cwd=folder, env=variables, stdout=log, stderr=log)
    try:
        client = subprocess.run(
            [sys.executable, "-c", _CLIENT],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert client.returncode == 0, client.stderr[-2000:] + Path(log.name).read_text()[-3000:]
        told = [line.strip("[]()").split(", ") for line in client.stdout.splitlines()]
        sessions = {}
        for pid, backend, _ in (line for line in told if len(line) == 3):
            sessions.setdefault(backend, set()).add(pid)
        assert all(len(pids) == 1 for pids in sessions.values())
        assert str(worker.pid) not in {pid for pids in sessions.values() for pid in pids}
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
        log.close()
    deadline = time.monotonic() + 10
    while database.roles() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert database.roles() == []


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.timeout(240)
def test_multiprocessings_children_have_leases_of_their_own(method, variables, database):
    """Children of an open pool: no session is shared, and that of the parent outlives them."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "multiprocessing_workers.py", method],
        cwd=EXAMPLES / "servers",
        env=variables,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [line.split() for line in done.stdout.splitlines()]

    assert told[0] == told[-1], "the parent has another session than before"
    assert len(told) == 10
    assert all(line[1] != told[0][1] and line[2] != told[0][2] for line in told[1:-1])
    if method == "fork":
        # Their pool closes with the `atexit` of none: multiprocessing's children end by os._exit.
        assert set(database.roles()) <= {line[2] for line in told[1:-1]}
