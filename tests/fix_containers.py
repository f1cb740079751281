"""
The servers from their public images, where a Docker engine answers.

The containers use the host's network (Linux): each listens at a loopback port that the system chose, and Vault reaches
a PostgreSQL, or a proxy of ours in front of it, as a program on this machine would.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import secrets
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.fix_postgres import ExistingPostgres
from tests.fix_vault import VaultServer

VAULT_IMAGES = ["hashicorp/vault:1.20", "openbao/openbao:2.5"]
POSTGRES_IMAGES = ["postgres:16", "postgres:18"]

_STARTING = 60.0


@functools.cache
def no_docker() -> str | None:
    """Return why no container can be run, None where one can."""
    if sys.platform != "linux":
        return "containers with the host's network need Linux"
    try:
        import docker
    except ModuleNotFoundError:
        return "the Python package docker is not installed"
    with warnings.catch_warnings():
        # Where nobody answers, the client leaves its socket to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with contextlib.closing(docker.from_env(timeout=5)) as client:
                client.ping()
        except (docker.errors.DockerException, OSError) as error:
            return f"no Docker engine answers: {' '.join(str(error).split())[:100]}"
        finally:
            gc.collect()
    return None


def free_port() -> int:
    """Return a port that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextlib.contextmanager
def container(image: str, command: list[str], environment: dict[str, str], **more: Any) -> Iterator[Any]:
    """Run *image* until the end of `with`; skip the test where the image is not here and cannot be had."""
    if reason := no_docker():
        pytest.skip(reason)
    import docker.errors
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    with contextlib.closing(docker.from_env(timeout=110)) as client:
        present = {tag for each in client.images.list() for tag in each.tags}
        if image not in present:
            try:
                client.images.pull(image)
            except (docker.errors.APIError, OSError) as error:
                pytest.skip(f"the image {image} is not here and cannot be had: {' '.join(str(error).split())[:100]}")
        # It clears up after a run that was killed, and is no part of the test: without its image, we do without it.
        if testcontainers_config.ryuk_image not in present:
            testcontainers_config.ryuk_disabled = True
    running = DockerContainer(image).with_command(command).with_kwargs(network_mode="host", **more)
    for name, value in environment.items():
        running.with_env(name, value)
    with running:
        yield running


def _until(started: Any, ready: Any) -> None:
    """Wait until *ready* neither raises nor returns something false; else raise with the end of the log."""
    deadline = time.monotonic() + _STARTING
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, psycopg.Error):
            if ready():
                return
        time.sleep(0.1)
    out, err = started.get_logs()
    raise RuntimeError(f"{started.image} did not start: {(out + err).decode(errors='replace')[-2000:]}")


@contextlib.contextmanager
def postgres_container(image: str) -> Iterator[ExistingPostgres]:
    """Run an image of PostgreSQL; the superuser's password is random, and every login needs one."""
    port, password = free_port(), secrets.token_urlsafe(24)
    settings = {"listen_addresses": "127.0.0.1", "port": port, "fsync": "off", "max_connections": 200}
    command = ["postgres", *(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))]
    environment = {"POSTGRES_PASSWORD": password, "POSTGRES_INITDB_ARGS": "--auth-host=scram-sha-256"}
    url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
    with container(image, command, environment) as started:
        _until(started, lambda: psycopg.connect(url).close() is None)
        yield ExistingPostgres(url)


@contextlib.contextmanager
def vault_container(image: str) -> Iterator[VaultServer]:
    """Run an image of Vault or of OpenBao in development mode."""
    port, token = free_port(), secrets.token_hex(16)
    brand = "BAO" if "bao" in image else "VAULT"
    environment = {
        f"{brand}_DEV_ROOT_TOKEN_ID": token,
        f"{brand}_DEV_LISTEN_ADDRESS": f"127.0.0.1:{port}",
    }
    server = VaultServer("bao" if brand == "BAO" else "vault", f"http://127.0.0.1:{port}", token)
    with container(image, ["server", "-dev"], environment, cap_add=["IPC_LOCK"]) as started:
        _until(started, lambda: server.api("GET", "auth/token/lookup-self")[0] == 200)
        yield server
