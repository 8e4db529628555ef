"""A real MongoDB replica set on loopback, for a laptop and for tests."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from smriti_scale.errors import ConfigurationError, LocalServerError, PortTaken
from smriti_scale.local import replica_set
from smriti_scale.local.binaries import find_mongod
from smriti_scale.local.folder import DataFolder
from smriti_scale.local.lifetime import run_blocking
from smriti_scale.local.ports import HOST, choose_ports, remember_ports
from smriti_scale.local.process import ServerProcess, stop_all

ENVIRONMENT_VARIABLE = "SMRITI_MONGODB_URI"
_ATTEMPTS = 5


class Member:
    """One node of the replica set.

    Attributes:
        host: the address it listens on.
        port: its port; kept over restarts.
        uri: connects to this node alone (`directConnection=true`), whatever its role.
    """

    __slots__ = ("_command", "_process", "host", "port", "uri")

    def __init__(
        self, host: str, port: int, *, uri: str, process: ServerProcess | None = None, command: list[str] | None = None
    ) -> None:
        self.host, self.port, self.uri = host, port, uri
        self._process, self._command = process, command or []

    def __repr__(self) -> str:
        return f"<Member {self.host}:{self.port}>"

    @property
    def pid(self) -> int | None:
        """The process id; None when the server was given by its URI, or this node is killed."""
        return self._process.pid if self._process and self._process.alive() else None

    async def role(self) -> replica_set.Role:
        """What the node says it is now; `"other"` while it starts, recovers, or does not answer."""
        return await asyncio.to_thread(replica_set.role, self.host, self.port, self.uri)

    def _own(self) -> ServerProcess:
        if self._process is None:
            raise LocalServerError(f"{self} is not ours to harm: the server was given by its URI")
        return self._process


class LocalMongo:
    """A MongoDB replica set that runs as long as the context does; ready when a majority has taken a write.

    ```python
    async with LocalMongo(replicas=3) as server:
        client = AsyncIOMotorClient(server.uri)
    ```

    The server is, in this order: the one at `uri`; the one named in the environment (`SMRITI_MONGODB_URI`); new
    processes of `mongod` on PATH; of the wheel that the `local` extra brings. The first two are used and left running.

    Args:
        replicas: nodes of the set, 1 or 3. One node is a replica set too: sessions and transactions work.
        data_dir: where the data is kept from run to run; a temporary folder when None.
        port: the first node's port on 127.0.0.1, the others' following; free ones when None.
        uri: a running server to use in place of a new one.
        binary: the `mongod` to run.
        test_commands: allow fail points (`enableTestCommands`), for fault tests.
        cache_gb: WiredTiger's cache for each node, in GB; 0.25 is the least it takes.
        startup_timeout: seconds until a majority must have taken a write.
        use_environment: whether `SMRITI_MONGODB_URI` is honoured. Fault tests say no: they need servers of their own.

    Raises:
        ConfigurationError: `replicas` is neither 1 nor 3.
    """

    def __init__(
        self,
        replicas: int = 1,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        port: int | None = None,
        uri: str | None = None,
        binary: str | os.PathLike[str] | None = None,
        test_commands: bool = False,
        cache_gb: float = 0.25,
        startup_timeout: float = 60.0,
        use_environment: bool = True,
    ) -> None:
        if replicas not in (1, 3):
            raise ConfigurationError(f"replicas is 1 or 3, not {replicas}: an even set elects no better than one less")
        self._replicas = replicas
        self._data_dir, self._asked_port, self._binary = data_dir, port, binary
        self._options = replica_set.NodeOptions(cache_gb=cache_gb, test_commands=test_commands)
        self._startup_timeout = startup_timeout
        self._given = uri or (os.environ.get(ENVIRONMENT_VARIABLE) if use_environment else None) or None
        self._folder: DataFolder | None = None
        self._members: tuple[Member, ...] = ()
        self._uri: str | None = None
        self._interrupted = threading.Event()

    @property
    def uri(self) -> str:
        """Connects to the whole set (with `replicaSet`), or the URI that was given."""
        if self._uri is None:
            raise LocalServerError("the MongoDB server is not running: enter its context first")
        return self._uri

    @property
    def data_dir(self) -> Path | None:
        """Where the data and the logs are; None when the server was given or is not running."""
        return self._folder.path if self._folder else None

    @property
    def owned(self) -> bool:
        """Whether this object runs the servers, and may so kill and restart them."""
        return self._folder is not None

    @property
    def members(self) -> tuple[Member, ...]:
        """The nodes, in the order of their ports; of a server given by its URI, those that the URI names."""
        return self._members

    async def __aenter__(self) -> Self:
        await run_blocking(self.start, interrupt=self._interrupted.set, undo=self.stop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await run_blocking(self.stop)

    def start(self) -> None:
        """Start the set and wait until a majority has taken a write. Blocks: for code without an event loop.

        Raises:
            LocalServerError: it cannot run; of the kind that says why.
        """
        if self._uri is not None:
            raise LocalServerError("this LocalMongo is already running")
        self._interrupted.clear()
        if self._given:
            self._members = _given_members(self._given, self._startup_timeout)
            self._uri = self._given
            return
        binary = str(find_mongod(self._binary))
        self._folder = DataFolder(self._data_dir)
        try:
            for attempt in range(_ATTEMPTS):
                ports = choose_ports(self._folder.path, self._replicas, first=self._asked_port)
                try:
                    self._launch(binary, ports, self._folder)
                except PortTaken:  # between the look at the port and the bind, another process was quicker
                    stop_all(self._processes(), now=True)
                    if self._asked_port is not None or attempt == _ATTEMPTS - 1:
                        raise
                else:
                    break
            self._uri = replica_set.uri_of(ports)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop what this object started, and delete its temporary folder. Blocks; may be repeated."""
        self._uri = None
        if self._folder is not None:
            stop_all(self._processes(), now=self._folder.temporary)
            self._folder.release()
            self._folder = None
        self._members = ()

    def check(self) -> None:
        """
        Raises:
            LocalServerError: a node that this object runs has died; the message says why.
        """
        for process in self._processes():
            process.require_alive()

    async def ready(self) -> None:
        """Wait until a majority has taken a write and every node that runs has joined; after a fault. Of a given server
        no more is asked than an answer.

        Raises:
            LocalServerError: not within the start-up timeout.
        """
        await run_blocking(self._await_ready)

    async def primary(self) -> Member:
        """The node that takes writes now.

        Raises:
            LocalServerError: there is none at this moment; see `ready`.
        """
        for member in self._members:
            if await member.role() == "primary":
                return member
        raise LocalServerError("the replica set has no primary at this moment")

    async def secondaries(self) -> list[Member]:
        """The nodes that follow now."""
        return [member for member in self._members if await member.role() == "secondary"]

    async def kill(self, member: Member) -> None:
        """SIGKILL the node, as a crash would."""
        await run_blocking(lambda: member._own().stop(now=True))

    async def restart(self, member: Member) -> None:
        """Stop the node, if it runs, start it again on its port, and wait until it has joined the set."""
        await run_blocking(lambda: self._restart(member))

    async def pause(self, member: Member) -> None:
        """SIGSTOP: the node accepts connections (the kernel does) and answers nothing."""
        await asyncio.to_thread(member._own().pause)

    async def resume(self, member: Member) -> None:
        """Let a paused node go on."""
        member._own().resume()

    async def heal(self) -> None:
        """Let paused nodes go on, restart killed ones, and wait as `ready` does."""
        for member in self._members:
            if (process := member._own()).paused:
                process.resume()
        for member in self._members:
            if not member._own().alive():
                await self.restart(member)
        await self.ready()

    def _processes(self) -> list[ServerProcess]:
        return [member._process for member in self._members if member._process is not None]

    def _launch(self, binary: str, ports: list[int], folder: DataFolder) -> None:
        members = []
        for number, port in enumerate(ports):
            process = ServerProcess(f"mongod-{number}", folder)
            command = replica_set.command_line(binary, port, folder.path / f"node-{number}", self._options)
            members.append(Member(HOST, port, uri=replica_set.direct_uri(port), process=process, command=command))
        self._members = tuple(members)
        for member, process in zip(members, self._processes(), strict=True):
            process.spawn(member._command)
        deadline = replica_set.Deadline(self._startup_timeout, self._require_progress)
        replica_set.await_listening({member.port: member.pid for member in members}, deadline)
        remember_ports(folder.path, ports)
        replica_set.initiate(ports, deadline)
        replica_set.await_ready(ports, deadline)

    def _restart(self, member: Member) -> None:
        process = member._own()
        process.stop()
        process.spawn(member._command)
        deadline = replica_set.Deadline(self._startup_timeout, process.require_alive)
        replica_set.await_listening({member.port: process.pid}, deadline)
        replica_set.await_joined(member.port, deadline)

    def _await_ready(self) -> None:
        if not self.owned:
            _given_members(self.uri, self._startup_timeout)
            return
        running = [member.port for member in self._members if member.pid is not None]
        replica_set.await_ready(running, replica_set.Deadline(self._startup_timeout))

    def _require_progress(self) -> None:
        if self._interrupted.is_set():
            raise LocalServerError("the start was interrupted")
        self.check()


def _given_members(uri: str, timeout: float) -> tuple[Member, ...]:
    return tuple(Member(host, port, uri=direct) for host, port, direct in replica_set.members_of(uri, timeout))
