"""A network between a client and a server on this host: it takes time, can be cut, and mended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Network:
    """Relays connections to `port` of this host; clients connect to `entrance`.

    While it is cut, everything is lost without a word, new connections too. What was lost stays
    lost: a connection from before never works again.
    """

    def __init__(self, port: int, delay_s: float = 0.0) -> None:
        """Whatever goes one way takes `delay_s`, the end of a connection as well."""
        self.entrance = 0
        self.connections = 0
        """So many have there been."""
        self._delay_s = delay_s
        self._port = port
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._lost: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Lose everything from now on."""
        self._is_cut = True
        self._lost |= self._writers

    def mend(self) -> None:
        """Relay new connections again."""
        self._is_cut = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one client's connection."""
        self.connections += 1
        self._writers.add(writer)
        if self._is_cut:
            self._lost.add(writer)
            return
        await asyncio.sleep(self._delay_s)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except ConnectionError:
            writer.transport.abort()
            return
        self._writers.add(far_writer)
        with contextlib.suppress(asyncio.CancelledError):  # the test has ended
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        for end in (writer, far_writer):
            if end not in self._lost:
                end.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy one way; an end in order stays one, and a reset becomes one."""
        under_way: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue()
        writing = asyncio.create_task(self._deliver(under_way, writer))
        due_s = asyncio.get_running_loop().time
        data: bytes | None = b" "
        while data:
            try:
                data = await reader.read(65_536)
            except ConnectionError:
                data = None
            under_way.put_nowait((due_s() + self._delay_s, data))
        await writing

    async def _deliver(
        self, under_way: asyncio.Queue[tuple[float, bytes | None]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due_s, data = await under_way.get()
            await asyncio.sleep(due_s - asyncio.get_running_loop().time())
            if writer in self._lost or writer.transport.is_closing():
                return
            if data is None:
                writer.transport.abort()
                return
            if not data:
                with contextlib.suppress(OSError):  # the other end has reset it meanwhile
                    writer.write_eof()
                return
            writer.write(data)

    def close(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def network_to(port: int, delay_s: float = 0.0) -> AsyncIterator[Network]:
    """Put a network before `port` for the length of a block; see `Network`."""
    network = Network(port, delay_s)
    server = await asyncio.start_server(network.carry, "127.0.0.1", 0)
    network.entrance = server.sockets[0].getsockname()[1]
    try:
        yield network
    finally:
        server.close()
        network.close()
