"""
The development server while its PostgreSQL restarts, is down, or hangs.
"""

from __future__ import annotations

import threading

from vault_pool.devserver import DevServer


def creds(server):
    status, answer = server.request("GET", "database/creds/app", token=server.root_token)
    assert status == 200, answer
    return answer["lease_id"]


def write(server, path, **body):
    return server.request("PUT", path, body, server.root_token)


def test_a_restarted_postgresql_heals_without_an_error(private_postgres):
    """The next request finds a new session."""
    with DevServer(listen=False) as server:
        server.enable_database(private_postgres.url())
        server.add_role("app")
        lease_id = creds(server)
        private_postgres.restart()
        assert write(server, "sys/leases/renew", lease_id=lease_id)[0] == 200
        creds(server)


def test_a_stopped_postgresql_is_a_400_on_renewal_and_a_500_on_reading(private_postgres):
    """Vault's texts name the place, and nothing else."""
    with DevServer(listen=False, revoke_on_close=False) as server:
        server.enable_database(private_postgres.url())
        server.add_role("app")
        lease_id = creds(server)
        private_postgres.stop()
        status, answer = write(server, "sys/leases/renew", lease_id=lease_id)
        assert status == 400
        start = (
            "failed to renew entry: resp: (*logical.Response)(nil) err: 1 error occurred:\n\t* failed to connect to `"
        )
        assert answer["errors"][0].startswith(start)
        status, answer = server.request("GET", "database/creds/app", token=server.root_token)
        assert status == 500
        assert answer["errors"][0].startswith("1 error occurred:\n\t* unable to start transaction: failed to connect")


def test_a_frozen_database_delays_no_other(private_postgres, database):
    """Operations of one connection wait for each other, those of another do not; closing ends the waiting."""
    with DevServer(listen=False) as server:
        server.enable_database(database.conninfo(), user=database.admin.user, password=database.admin.password)
        server.add_role("app", in_role=database.group)
        server.enable_database(private_postgres.url(), mount_point="frozen")
        server.add_role("app", mount_point="frozen")
        private_postgres.pause()
        try:
            answers = []
            ask = lambda: answers.append(server.request("GET", "frozen/creds/app", token=server.root_token))  # noqa: E731
            thread = threading.Thread(target=ask)
            thread.start()
            creds(server)
            assert answers == []
            server.close()
            thread.join(20)
            assert not thread.is_alive()
            assert answers[0][0] == 500
        finally:
            private_postgres.resume()
    assert database.roles() == []


def test_closing_does_not_wait_for_a_frozen_database(no_leaks, private_postgres):
    """Roles in a database that does not answer are left behind; nothing else is."""
    with DevServer(listen=False, close_timeout=0.2) as server:
        server.enable_database(private_postgres.url())
        server.add_role("app")
        creds(server)
        private_postgres.pause()
        try:
            server.close()
        finally:
            private_postgres.resume()
