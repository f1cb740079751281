"""
A TCP proxy on loopback that can be slow, deaf, closed or cut: a network between us and a server.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from typing_extensions import Self

T = TypeVar("T")

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class TcpProxy:
    """
    Forwards connections from `host`:`port` to the target; every method has taken effect when it returns.

    *delay_ms* is added to each chunk in each direction, and may be changed at any time. Thread-safe; one thread, which
    `close()` ends. `accepted` counts connections.
    """

    def __init__(self, target_host: str, target_port: int, *, delay_ms: float = 0.0) -> None:
        self.target = (target_host, target_port)
        self.delay_ms = delay_ms
        self.accepted = 0
        # Bound and never listening: it keeps our port ours while the listener is closed.
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind(("127.0.0.1", 0))
        self.host, self.port = self._reservation.getsockname()
        self._hearing = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._lost: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        self.pass_through()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pass_through(self) -> None:
        """Forward everything, what arrived while deaf included."""
        self._call(self._set(listening=True, hearing=True))

    def deaf(self) -> None:
        """Accept connections and answer nothing, on the open ones neither."""
        self._call(self._set(listening=True, hearing=False))

    def refuse(self) -> None:
        """Refuse new connections (ECONNREFUSED); the open ones go on."""
        self._call(self._set(listening=False, hearing=True))

    def cut(self) -> int:
        """Reset every open connection, on both sides; return how many there were."""
        return self._call(self._cut())

    def half_open(self) -> int:
        """Lose the open connections without a word: nothing passes, nobody is told; return how many there were."""
        return self._call(self._half_open())

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    def close(self) -> None:
        """Cut everything, close the port and end the thread; twice does no harm."""
        if self._loop.is_closed():
            return
        self._call(self._set(listening=False, hearing=False))
        self._call(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reservation.close()

    def _call(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(timeout=10)

    async def _set(self, *, listening: bool, hearing: bool) -> None:
        if hearing:
            self._hearing.set()
        else:
            self._hearing.clear()
        if listening and self._server is None:
            self._server = await asyncio.start_server(self._link, self.host, self.port, reuse_address=True)
        elif not listening and self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)  # the loop closes the listening socket in its next turn

    async def _cut(self) -> int:
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        return len(links)

    async def _half_open(self) -> int:
        self._lost |= self._links
        return len(self._links)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self.accepted += 1
        self._links.add(link)
        writers = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            await self._hearing.wait()
            far_reader, far_writer = await asyncio.open_connection(*self.target)
            writers.append(far_writer)
            pumps = [
                asyncio.ensure_future(self._pump(link, reader, far_writer)),
                asyncio.ensure_future(self._pump(link, far_reader, writer)),
            ]
            await asyncio.gather(*pumps)
        except (OSError, asyncio.CancelledError):
            for one in writers:
                with contextlib.suppress(OSError):
                    one.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for one in writers:
                one.transport.abort()
            await asyncio.sleep(0)  # the loop closes an aborted socket in its next turn
            self._links.discard(link)
            self._lost.discard(link)

    async def _pump(self, link: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            if self.delay_ms:
                await asyncio.sleep(self.delay_ms / 1000)
            await self._hearing.wait()
            if link in self._lost:
                continue
            writer.write(chunk)
            await writer.drain()
        await self._hearing.wait()
        if link not in self._lost:
            with contextlib.suppress(OSError):
                writer.write_eof()


@pytest.fixture
def tcp_proxy() -> Iterator[Callable[..., TcpProxy]]:
    """`tcp_proxy(host, port, delay_ms=0)` returns a TcpProxy that is closed after the test."""
    with contextlib.ExitStack() as proxies:

        def make(host: str, port: int, *, delay_ms: float = 0.0) -> TcpProxy:
            return proxies.enter_context(TcpProxy(host, port, delay_ms=delay_ms))

        yield make
