"""A real Redis on loopback, for a laptop and for tests."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from smriti_scale.errors import LocalServerError, PortTaken
from smriti_scale.local.binaries import find_redis_server
from smriti_scale.local.folder import DataFolder
from smriti_scale.local.lifetime import run_blocking
from smriti_scale.local.ports import HOST, choose_ports, remember_ports
from smriti_scale.local.process import ServerProcess

ENVIRONMENT_VARIABLE = "SMRITI_REDIS_URL"
_ATTEMPTS = 5


class LocalRedis:
    """A Redis server that runs as long as the context does.

    ```python
    async with LocalRedis() as server:
        client = redis.asyncio.from_url(server.uri)
    ```

    The server is, in this order: the one at `uri`; the one named in the environment (`SMRITI_REDIS_URL`); a new process
    of `redis-server` on PATH; one of the wheel that the `local` extra brings. The first two are used and left running.

    Args:
        data_dir: where the data is kept from run to run (a snapshot at each stop and every minute with writes); a
            temporary folder without snapshots when None.
        port: the port on 127.0.0.1; a free one when None.
        uri: a running server to use in place of a new one.
        binary: the `redis-server` to run.
        startup_timeout: seconds until it must answer.
        use_environment: whether `SMRITI_REDIS_URL` is honoured. Fault tests say no: they need a server of their own.
    """

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        port: int | None = None,
        uri: str | None = None,
        binary: str | os.PathLike[str] | None = None,
        startup_timeout: float = 30.0,
        use_environment: bool = True,
    ) -> None:
        self._data_dir, self._asked_port, self._binary = data_dir, port, binary
        self._startup_timeout = startup_timeout
        self._given = uri or (os.environ.get(ENVIRONMENT_VARIABLE) if use_environment else None) or None
        self._folder: DataFolder | None = None
        self._process: ServerProcess | None = None
        self._command: list[str] = []
        self._uri: str | None = None
        self._interrupted = threading.Event()

    @property
    def uri(self) -> str:
        """`redis://127.0.0.1:<port>/0`, or the URI that was given."""
        if self._uri is None:
            raise LocalServerError("the Redis server is not running: enter its context first")
        return self._uri

    @property
    def data_dir(self) -> Path | None:
        """Where the data and the logs are; None when the server was given or is not running."""
        return self._folder.path if self._folder else None

    @property
    def owned(self) -> bool:
        """Whether this object runs the server, and may so kill and restart it."""
        return self._process is not None

    @property
    def host(self) -> str:
        """The address the server listens on."""
        return urlsplit(self.uri).hostname or HOST

    @property
    def port(self) -> int:
        """The port the server listens on."""
        return urlsplit(self.uri).port or 6379

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it was given or is killed."""
        return self._process.pid if self._process and self._process.alive() else None

    async def __aenter__(self) -> Self:
        await run_blocking(self.start, interrupt=self._interrupted.set, undo=self.stop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await run_blocking(self.stop)

    def start(self) -> None:
        """Start the server and wait until it answers. Blocks: for code without an event loop.

        Raises:
            LocalServerError: it cannot run; of the kind that says why.
        """
        if self._uri is not None:
            raise LocalServerError("this LocalRedis is already running")
        self._interrupted.clear()
        if self._given:
            self._await_answer(urlsplit(self._given).hostname or HOST, urlsplit(self._given).port or 6379)
            self._uri = self._given
            return
        binary = find_redis_server(self._binary)
        self._folder = DataFolder(self._data_dir)
        try:
            for attempt in range(_ATTEMPTS):
                [port] = choose_ports(self._folder.path, 1, first=self._asked_port)
                self._process = ServerProcess("redis", self._folder)
                self._command = _command(str(binary), port, self._folder)
                try:
                    self._process.spawn(self._command)
                    self._await_answer(HOST, port)
                except PortTaken:  # between the look at the port and the bind, another process was quicker
                    if self._asked_port is not None or attempt == _ATTEMPTS - 1:
                        raise
                else:
                    break
            remember_ports(self._folder.path, [port])
            self._uri = f"redis://{HOST}:{port}/0"
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server if this object started it, and delete its temporary folder. Blocks; may be repeated."""
        self._uri = None
        if self._process is not None:
            self._process.stop(now=self._folder is None or self._folder.temporary)
            self._process = None
        if self._folder is not None:
            self._folder.release()
            self._folder = None

    def check(self) -> None:
        """
        Raises:
            LocalServerError: the server was started by this object and has died; the message says why.
        """
        if self._process is not None:
            self._process.require_alive()

    async def kill(self) -> None:
        """SIGKILL: what was not in a snapshot is lost."""
        await run_blocking(lambda: self._own().stop(now=True))

    async def restart(self) -> None:
        """Stop the server, if it runs, and start it again on the same port."""
        await run_blocking(self._restart)

    async def pause(self) -> None:
        """SIGSTOP: the server accepts connections (the kernel does) and answers nothing."""
        await asyncio.to_thread(self._own().pause)

    async def resume(self) -> None:
        """Let a paused server go on."""
        self._own().resume()

    async def heal(self) -> None:
        """Let a paused server go on, restart a killed one."""
        if self._own().paused:
            self._own().resume()
        if not self._own().alive():
            await self.restart()

    def _restart(self) -> None:
        process = self._own()
        process.stop()
        process.spawn(self._command)
        self._await_answer(self.host, self.port)

    def _own(self) -> ServerProcess:
        if self._process is None:
            raise LocalServerError("this Redis is not ours to harm: it was given by its URI, or is not running")
        return self._process

    def _await_answer(self, host: str, port: int) -> None:
        """Wait until the server has loaded its data; our own must be the very process, and not a stranger's Redis that
        was quicker to take the port.
        """
        deadline = time.monotonic() + self._startup_timeout
        while True:
            self.check()
            if self._interrupted.is_set():
                raise LocalServerError("the start was interrupted")
            with suppress(OSError):
                if self._process is None:
                    _ask(host, port, b"PING")  # any answer will do: it may want a password first
                    return
                told = _ask(host, port, b"INFO")
                if f"process_id:{self._process.pid}\r" in told and "loading:0\r" in told:
                    return
            if time.monotonic() > deadline:
                raise LocalServerError(f"the Redis at {host}:{port} did not answer within {self._startup_timeout:g} s")
            time.sleep(0.02)


def _ask(host: str, port: int, question: bytes) -> str:
    """One command in the protocol's inline form, and what comes back within its first 16 KB.

    Raises:
        OSError: no answer.
    """
    with socket.create_connection((host, port), timeout=1.0) as connection:
        connection.sendall(question + b"\r\nQUIT\r\n")
        told = b""
        while len(told) < 16_384 and (more := connection.recv(16_384)):
            told += more
    if not told:
        raise ConnectionResetError
    return told.decode(errors="replace")


def _command(binary: str, port: int, folder: DataFolder) -> list[str]:
    """The command line. Settings of the machine's own redis.conf are not read."""
    return [
        *(binary, "--port", str(port), "--bind", HOST, "--dir", str(folder.path), "--daemonize", "no"),
        *("--save", *([""] if folder.temporary else ["60", "1"]), "--appendonly", "no", "--databases", "16"),
    ]
