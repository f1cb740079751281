"""
fork() at any moment: the child never touches what is the parent's, and gets its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import subprocess
import sys
import threading
import time
import warnings
from multiprocessing import get_context

import pytest

from tests.children import Child, in_child, sockets
from tests.load import Load
from vault_pool import DynamicRole, PoolClosed, Token, Vault, VaultPool
from vault_pool.events import PoolReplaced

# What Vault it is makes no difference here.
pytestmark = pytest.mark.parametrize("vault_process", ["devserver"], indirect=True, scope="session")


def until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


@pytest.fixture
def make_pool(vault_server, database):
    """Return a function that makes a VaultPool of role `app` in *database*."""
    vault_server.database_role(database)

    def make(address=None, **options):
        vault = Vault(address or vault_server.address, auth=Token(vault_server.root_token))
        source = DynamicRole("app", vault=vault, mount_point=vault_server.mount)
        return VaultPool(database.conninfo(), source=source, **{"min_size": 2, "max_size": 4, **options})

    return make


def who(pool):
    """Return the user and the server process of a connection of *pool*."""
    with pool.connection(timeout=10) as conn:
        return conn.execute("SELECT current_user::text, pg_backend_pid()").fetchone()


# --- A lease of its own ------------------------------------------------------------------------------------


def test_a_child_serves_by_a_lease_of_its_own(no_leaks, make_pool, vault_server):
    """It gets one at the first use, not before, and revokes no other; the parent rotates meanwhile."""
    with make_pool() as pool:
        user, leases = who(pool)[0], vault_server.leases()
        rotated, served = os.pipe(), os.pipe()

        def work():
            before = vault_server.leases(), pool.status().generation, pool.closed
            mine = who(pool)[0]
            os.write(served[1], b".")
            os.read(rotated[0], 1)
            during = vault_server.leases()
            again = who(pool)[0]
            pool.close()
            return before, mine, during, again, vault_server.leases(), pool.closed

        child = Child(work)
        os.read(served[0], 1)
        pool.rotate()
        until(lambda: not pool.status().leases_ending)
        os.write(rotated[1], b".")
        before, mine, during, again, after, closed = child.verdict()
        parents = vault_server.leases()

        assert before == [leases, 0, False]
        assert mine == again != user
        assert len(during) == 2
        assert after == parents == [pool.status().lease_id]
        assert closed
        assert pool.status().generation == 2
        assert pool.status().last_error is None
        assert who(pool)[0] == pool.status().user
    assert vault_server.leases() == []
    for end in (*rotated, *served):
        os.close(end)


def test_a_child_shares_no_socket_with_its_parent(make_pool, vault_server):
    """Neither one to PostgreSQL nor one to Vault."""
    before = sockets()
    with make_pool() as pool, pool.connection():
        ours = sockets() - before
        assert len(ours) >= 2
        left, again = in_child(lambda: (list(sockets() & ours), who(pool)[1]))

        assert left == []
        assert again != who(pool)[1]


def test_a_fork_of_a_fork_has_its_own_again(make_pool, vault_server):
    """Whether the generation in between has used the pool or not."""
    with make_pool(min_size=1) as pool:
        mine = who(pool)[0]

        def work():
            unused = in_child(lambda: who(pool)[0])
            child = who(pool)[0]
            grandchild = in_child(lambda: who(pool)[0])
            return unused, child, grandchild, who(pool)[0] == child

        unused, child, grandchild, same = in_child(work)

        assert len({mine, unused, child, grandchild}) == 4
        assert same
        assert who(pool)[0] == mine


def test_children_do_not_agree_by_chance(make_pool):
    """Jitter would be none if each child drew the same numbers."""
    with make_pool(min_size=1) as pool:
        draws = [in_child(pool._runtime.random) for _ in range(2)]

        assert len({*draws, pool._runtime.random()}) == 3


@pytest.mark.parametrize("state", ["new", "closed"])
def test_a_pool_that_was_not_open_is_not_open(make_pool, state):
    """Nothing opens by itself in a child that was not open in its parent."""
    pool = make_pool()
    if state == "closed":
        pool.open()
        pool.close()

    def work():
        with pytest.raises(PoolClosed, match="not open" if state == "new" else "closed"):
            pool.getconn(timeout=1)
        if state == "new":
            with pool:
                who(pool)
        return pool.closed

    assert in_child(work)


def test_a_child_that_closes_an_inherited_pool_ends_nothing(make_pool, vault_server):
    """It was not opened in the child: closing it is only a note."""
    with make_pool(min_size=1) as pool:
        mine = who(pool)

        def work():
            pool.close()
            with pytest.raises(PoolClosed):
                pool.getconn(timeout=1)
            return pool.closed

        assert in_child(work)
        assert who(pool) == mine
        assert len(vault_server.leases()) == 1


# --- At any moment -----------------------------------------------------------------------------------------


def test_locks_that_other_threads_hold_are_free_in_the_child(make_pool):
    """All of them, at once."""
    with make_pool() as pool:
        generation = pool._current
        locks = [
            pool._lock,
            pool._budget.changed,
            pool._reaper._changed,
            pool._watcher._lock,
            pool._runtime._lock,
            pool._runtime._scheduler._wakeup,
            pool._runtime._workers._changed,
            generation.pool._lock,
        ]
        held, go_on = threading.Barrier(len(locks) + 1), threading.Event()

        def hold(lock):
            with lock:
                held.wait(10)
                go_on.wait(10)

        threads = [threading.Thread(target=hold, args=[lock]) for lock in locks]
        for thread in threads:
            thread.start()
        held.wait(10)
        try:
            theirs = in_child(lambda: (who(pool)[1], pool.rotate(), who(pool)[1], pool.close()))
        finally:
            go_on.set()
            for thread in threads:
                thread.join()

        assert who(pool)[1] not in theirs


def test_a_fork_in_the_middle_of_a_swap(make_pool, vault_server):
    """The new generation is half open: the child closes none of it, and the parent goes on to swap."""
    reached, go_on = threading.Event(), threading.Event()

    def configure(conn):
        if armed and threading.current_thread().name.startswith("vault_pool-1"):
            reached.set()
            go_on.wait(10)

    armed = False
    with make_pool(configure=configure, name="vault_pool-1", min_size=2) as pool:
        before = sockets()
        armed = True
        pool.rotate(wait=False)
        assert reached.wait(10)
        half_open = sockets() - before

        def work():
            nonlocal armed
            armed = False
            return who(pool)[1], list(sockets() & half_open), len(vault_server.leases())

        theirs, shared, leases = in_child(work)
        armed = False
        go_on.set()
        until(lambda: pool.status().generation == 2)

        assert shared == []
        assert leases == 3
        assert who(pool)[1] != theirs


def test_a_listener_may_fork(make_pool, vault_server):
    """From a thread of ours, which is then the only one of the child."""
    verdicts = []

    def listen(event):
        if isinstance(event, PoolReplaced) and event.generation == 2:
            verdicts.append(in_child(lambda: who(pool)[0]))

    with make_pool(on_event=listen) as pool:
        pool.rotate()
        until(lambda: verdicts)

        assert verdicts != [who(pool)[0]]
        pool.rotate()
        assert pool.status().generation == 3


def test_forks_under_load_fail_nothing(no_leaks, make_pool, vault_server, database):
    """Clients, swaps and forks at once: nothing fails in the parent, and each child serves and leaves nothing."""
    with make_pool(min_size=2, max_size=6) as pool:
        with Load(pool, fast=3, slow=1, slow_seconds=0.2, think=0.002) as load:
            served = []
            for number in range(8):
                if number % 4 == 1:
                    pool.rotate(wait=False)
                time.sleep(random.random() * 0.03)
                served.append(in_child(lambda: (who(pool)[0], pool.close())[0]))

        assert load.failures == {}
        assert load.requests > 50
        assert len(set(served)) == 8
        until(lambda: len(vault_server.leases()) == 1)
    until(lambda: (vault_server.leases(), database.roles()) == ([], []))


# --- Processes of their own --------------------------------------------------------------------------------

SCRIPT = """
import json, os, sys, time, warnings
from vault_pool import DynamicRole, Token, Vault, VaultPool
given = json.load(sys.stdin)
vault = Vault(given["address"], auth=Token(given["token"]))
source = DynamicRole("app", vault=vault, mount_point=given["mount"])
pool = VaultPool(given["conninfo"], source=source, min_size=2, max_size=4)
def who():
    with pool.connection(timeout=10) as conn:
        return conn.execute("SELECT current_user::text, pg_backend_pid()").fetchone()
def tell(*words):
    os.write(1, (json.dumps(words) + "\\n").encode())
warnings.filterwarnings("ignore", "This process .* is multi-threaded")
"""


@pytest.fixture
def program(vault_server, database):
    """Return a function that runs SCRIPT and more in a process of its own, warnings being errors."""
    vault_server.database_role(database)
    running = []

    def run(text, *, session=False):
        given = {
            "address": vault_server.address,
            "token": vault_server.root_token,
            "mount": vault_server.mount,
            "conninfo": database.conninfo(),
        }
        process = subprocess.Popen(
            [sys.executable, "-Werror", "-c", SCRIPT + text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=session,
        )
        running.append(process)
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        process.stdin = None
        return process

    yield run
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_a_child_exits_in_order(program, vault_server, database):
    """A child that used an inherited pool revokes its lease at exit, in silence; one that did not does nothing."""
    process = program("""
with pool:
    mine = who()
    for used in (True, False):
        if (child := os.fork()) == 0:
            if used:
                tell("child", who() != mine)
            sys.exit(0)
        tell("status", os.waitpid(child, 0)[1])
    tell("parent", who()[0] == mine[0])
""")
    output, errors = process.communicate(timeout=60)

    said = [json.loads(line) for line in output.splitlines()]
    assert said == [["child", True], ["status", 0], ["status", 0], ["parent", True]], errors
    assert errors == ""
    assert vault_server.leases() == []
    until(lambda: database.roles() == [])


def test_a_server_that_runs_no_hooks(program, vault_server):
    """uWSGI forks in C: the first checkout finds that this is another process; an exit without one does as well."""
    process = program("""
import ctypes
fork = ctypes.PyDLL(None).fork
# A thread that has asked for the interpreter's lock would never take it in the child, which waits for it to do so.
sys.setswitchinterval(60.0)
with pool:
    mine = who()
    checkout = pool.connection()
    conn = checkout.__enter__()
    conn.execute("INSERT INTO items (id, name) VALUES (77, 'parent')")
    for used in (True, False):
        if (child := fork()) == 0:
            if used:
                theirs = who()
                tell("child", theirs[0] != mine[0], conn.closed)
                pool.close()
            sys.exit(0)
        tell("status", os.waitpid(child, 0)[1])
    checkout.__exit__(None, None, None)
    tell("parent", who()[0] == mine[0])
""")
    output, errors = process.communicate(timeout=60)

    said = [json.loads(line) for line in output.splitlines()]
    assert said == [["child", True, True], ["status", 0], ["status", 0], ["parent", True]], errors
    assert vault_server.leases() == []


def test_a_parent_that_is_killed_leaves_no_session_to_its_child(program, database, monkeypatch):
    """Idle, lent out or retiring: they end with the parent, though a child lives on, and it serves."""
    become_reaper()
    process = program(
        """
import select
pool.open()
retiring = pool.getconn()
retiring.execute("SELECT 1")
pool.rotate()
out = pool.getconn()
out.execute("SELECT 1")
asked, ask = os.pipe()
if (child := os.fork()) == 0:
    os.close(ask)
    tell("child", os.getpid())
    os.read(asked, 1)  # until the parent is gone
    time.sleep(float(1))
    tell("serves", who()[0][:2])
    os._exit(0)
tell("parent", os.getpid())
time.sleep(60)
"""
    )
    first = [json.loads(process.stdout.readline()) for _ in range(2)]
    child = next(pid for name, pid in first if name == "child")
    sessions = database.sessions()
    process.kill()
    process.wait()
    began = time.monotonic()
    until(lambda: not {session.pid for session in database.sessions()} & {session.pid for session in sessions})
    took = time.monotonic() - began
    served = json.loads(process.stdout.readline())
    os.waitpid(child, 0)

    assert len(sessions) >= 3
    assert took < 5
    assert served == ["serves", "v-"]


def become_reaper():
    """Have orphans of this process's children waited for here."""
    set_child_subreaper = 36
    ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def test_multiprocessing(make_pool):
    """A forked child serves, and has no exit of its own in which to end its lease: it closes the pool itself."""
    with make_pool(min_size=1) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        forked = get_context("fork")
        reader, writer = forked.Pipe(duplex=False)
        mine = who(pool)[0]
        process = forked.Process(target=lambda: writer.send((who(pool)[0], pool.close())[0]))
        process.start()
        theirs = reader.recv()
        process.join(10)

        assert theirs != mine
        assert process.exitcode == 0
