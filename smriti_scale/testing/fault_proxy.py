"""A TCP proxy that misbehaves on command, in front of Redis, one mongod, or any server."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from enum import Enum
from types import TracebackType
from typing import Self

from smriti_scale.errors import ConfigurationError
from smriti_scale.local.ports import HOST, free_ports

_CHUNK = 65_536
_TRICKLE = 0.05
"""Seconds between the pieces of a throttled answer."""
_ADDRESS = re.compile(
    r"^(?P<scheme>[a-z+]+)://(?P<user>[^/@]*@)?(?P<host>[^/:,?]+)(?::(?P<port>\d+))?(?P<rest>[/?].*)?$"
)
_DEFAULT_PORTS = {"redis": 6379, "rediss": 6379, "mongodb": 27017, "http": 80}


class _Mode(Enum):
    PASS = "pass"  # noqa: S105 - no secret
    CUT = "cut"
    REFUSE = "refuse"
    SWALLOW = "swallow"


class FaultProxy:
    """Stands between a client and a server, and passes bytes until told otherwise. Use it as a context, in one loop.

    ```python
    async with FaultProxy(redis_url) as proxy:
        client = redis.asyncio.from_url(proxy.uri)
        await proxy.swallow()      # the server now accepts and never answers
        await proxy.heal()
    ```

    A replica set's driver goes round a proxy to the hosts that the set names, so give it one node, with
    `directConnection=true`: `FaultProxy(server.members[0].uri)`.

    Args:
        server: a URI that names one host, or a host name.
        port: the port, when `server` is a host name.
    """

    def __init__(self, server: str, port: int | None = None) -> None:
        if port is not None:
            self._host, self._port, self._form = server, port, "tcp://{}"
        else:
            self._host, self._port, self._form = _parse(server)
        self.host, self.port = HOST, 0
        self.connections_accepted = 0
        self.bytes_to_server = 0
        self.bytes_to_client = 0
        self._mode = _Mode.PASS
        self._delay = 0.0
        self._rate: float | None = None
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def uri(self) -> str:
        """The server's URI with the proxy's address in place of its own."""
        return self._form.format(f"{self.host}:{self.port}")

    @property
    def connections_open(self) -> int:
        """How many client connections there are now."""
        return len(self._links)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen on a free loopback port."""
        self.port = free_ports(1)[0]
        await self._listen()

    async def close(self) -> None:
        """Stop listening and reset what is open."""
        await self._deafen()
        await self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def delay(self, seconds: float) -> None:
        """From now on each answer arrives later by so much; the throughput stays."""
        self._delay = seconds

    async def throttle(self, bytes_per_second: float) -> None:
        """From now on answers trickle at this rate on each connection."""
        self._rate = bytes_per_second

    async def cut(self) -> None:
        """Reset (RST) open connections, and each new one once accepted."""
        await self._enter(_Mode.CUT)
        await self.reset()

    async def refuse(self) -> None:
        """Close the port: new connections are refused, open ones reset."""
        await self._enter(_Mode.REFUSE)
        await self.reset()

    async def swallow(self) -> None:
        """Accept connections and take bytes, but pass none on, either way; open connections included."""
        await self._enter(_Mode.SWALLOW)

    async def heal(self) -> None:
        """Pass everything again, at full speed. Connections that lost bytes are reset: their streams are spoiled."""
        self._delay, self._rate = 0.0, None
        for link in [link for link in self._links if link.spoiled]:
            link.reset()
        await self._enter(_Mode.PASS)

    async def reset(self) -> None:
        """Reset (RST) open connections, once; new ones work as before."""
        for link in list(self._links):
            link.reset()

    async def _enter(self, mode: _Mode) -> None:
        self._mode = mode
        if mode is _Mode.REFUSE:
            await self._deafen()
        elif self._listener is None:
            await self._listen()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, self.host, self.port, backlog=512)

    async def _deafen(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_accepted += 1
        link = _Link(self, reader, writer)
        if self._mode is _Mode.CUT:
            link.reset()
            return
        self._links.add(link)
        task = asyncio.ensure_future(link.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Link:
    """One client's connection and its twin to the server."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client_reader, self._client = reader, writer
        self._server: asyncio.StreamWriter | None = None
        self.spoiled = False

    async def run(self) -> None:
        """Carry bytes both ways until both sides have ended, or one has failed."""
        proxy = self._proxy
        try:
            if proxy._mode is _Mode.SWALLOW:
                self.spoiled = True
                while await self._client_reader.read(_CHUNK):
                    pass
            else:
                server_reader, self._server = await asyncio.open_connection(proxy._host, proxy._port)
                if self._client.transport.is_closing():  # reset meanwhile
                    raise ConnectionResetError
                waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._carry_requests(self._server))
                    pumps.create_task(self._fetch_answers(server_reader, waiting))
                    pumps.create_task(self._deliver_answers(waiting))
            for side in (self._client, self._server):
                if side is not None:
                    side.close()
        except* OSError:
            pass  # one side failed, or the server is not there: the client sees it below
        finally:
            self.reset()

    async def _carry_requests(self, writer: asyncio.StreamWriter) -> None:
        while chunk := await self._client_reader.read(_CHUNK):
            if self._proxy._mode is _Mode.SWALLOW:
                self.spoiled = True
                continue
            self._proxy.bytes_to_server += len(chunk)
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()

    async def _fetch_answers(self, reader: asyncio.StreamReader, waiting: asyncio.Queue[tuple[float, bytes]]) -> None:
        """Chunks wait their turn in a queue, so that a delay is a delay and not a lower rate."""
        while True:
            chunk = await reader.read(_CHUNK)
            await waiting.put((time.monotonic() + self._proxy._delay, chunk))
            if not chunk:
                return

    async def _deliver_answers(self, waiting: asyncio.Queue[tuple[float, bytes]]) -> None:
        while True:
            due, chunk = await waiting.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not chunk:
                self._client.write_eof()
                return
            await self._deliver(chunk)

    async def _deliver(self, chunk: bytes) -> None:
        proxy = self._proxy
        while chunk:
            if proxy._mode is _Mode.SWALLOW:
                self.spoiled = True
                return
            piece = chunk
            if proxy._rate is not None:
                piece = chunk[: max(1, int(proxy._rate * _TRICKLE))]
                await asyncio.sleep(len(piece) / proxy._rate)
            chunk = chunk[len(piece) :]
            proxy.bytes_to_client += len(piece)
            self._client.write(piece)
            await self._client.drain()

    def reset(self) -> None:
        """Close both sides at once; a client whose connection was not at its end sees RST."""
        self._proxy._links.discard(self)
        for side in (self._client, self._server):
            if side is not None and not side.transport.is_closing():
                raw = side.get_extra_info("socket")
                if raw is not None:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                side.transport.abort()


def _parse(uri: str) -> tuple[str, int, str]:
    """Host, port, and the URI with a hole where they were."""
    found = _ADDRESS.match(uri)
    if found is None:
        raise ConfigurationError(
            "a fault proxy stands before one server: give it a URI that names one host, for instance "
            "server.members[0].uri, or a host name and a port"
        )
    rest = found["rest"] or ""
    if found["scheme"] == "mongodb" and "directconnection=" not in rest.lower():
        path, _, query = rest.partition("?")
        rest = f"{path or '/'}?{query}{'&' if query else ''}directConnection=true"
    form = f"{found['scheme']}://{found['user'] or ''}".replace("{", "{{").replace("}", "}}")
    rest = rest.replace("{", "{{").replace("}", "}}")
    port = int(found["port"] or _DEFAULT_PORTS.get(found["scheme"], 0))
    return found["host"], port, f"{form}{{}}{rest}"
