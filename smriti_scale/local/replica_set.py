"""Making a replica set out of mongod processes. Blocking; runs in a thread.

Sources: https://www.mongodb.com/docs/manual/reference/command/replSetInitiate/,
https://www.mongodb.com/docs/manual/reference/command/replSetReconfig/ (`force`).
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from smriti_scale.errors import ConfigurationError, LocalServerError
from smriti_scale.local.ports import HOST

if TYPE_CHECKING:
    from pymongo import MongoClient

Role = Literal["primary", "secondary", "other"]
NAME = "smriti"
_NOT_YET_INITIALIZED = 94
_SETTINGS = {
    # A primary is found within 1.3 s in place of 10 s and more; loopback loses no heartbeats.
    "electionTimeoutMillis": 1000,
    "heartbeatIntervalMillis": 200,
    # A secondary that follows a stalled secondary would wait 30 s before it looks for a better source.
    "chainingAllowed": False,
}

_TEST_PARAMETERS = {
    "enableTestCommands": "1",
    # A secondary without a sync source looks again after 1 s; every start and recovery would wait for that.
    "failpoint.forceBgSyncSyncSourceRetryWaitMS": '{"mode": "alwaysOn", "data": {"sleepMS": 50}}',
}
_MAJORITY = {"w": "majority", "wtimeout": 2000}
_NO_SECTIONS = dict.fromkeys(("metrics", "wiredTiger", "locks", "opcounters", "tcmalloc", "repl"), 0)


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How each mongod is set up; see `LocalMongo`."""

    cache_gb: float
    test_commands: bool


class Deadline:
    """A moment by which something must have come true; asks on the way whether it still can.

    Args:
        seconds: from now.
        check: raises when waiting has become pointless, since a server died.
    """

    def __init__(self, seconds: float, check: Callable[[], None] = lambda: None) -> None:
        self._seconds, self._check = seconds, check
        self._end = time.monotonic() + seconds

    def pause(self, awaited: str) -> None:
        """Wait a moment.

        Raises:
            LocalServerError: the time is over.
        """
        self._check()
        if time.monotonic() > self._end:
            raise LocalServerError(f"waited {self._seconds:g} s in vain for {awaited}")
        time.sleep(0.04)


def command_line(binary: str, port: int, folder: Path, options: NodeOptions) -> list[str]:
    """The command that runs one node; its folder is made."""
    folder.mkdir(exist_ok=True)
    parameters = {
        "diagnosticDataCollectionEnabled": "false",  # saves a fifth of an idle node's CPU
        "shutdownTimeoutMillisForSignaledShutdown": "100",  # nobody here drains for 15 s
        **(_TEST_PARAMETERS if options.test_commands else {}),
    }
    return [
        *(binary, "--port", str(port), "--bind_ip", HOST, "--dbpath", str(folder), "--replSet", NAME),
        *("--wiredTigerCacheSizeGB", f"{options.cache_gb:g}", "--nounixsocket"),
        *(word for name, value in parameters.items() for word in ("--setParameter", f"{name}={value}")),
    ]


def uri_of(ports: list[int]) -> str:
    """Connects to the whole set."""
    return f"mongodb://{','.join(f'{HOST}:{port}' for port in ports)}/?replicaSet={NAME}"


def direct_uri(port: int) -> str:
    """Connects to one node, whatever its role."""
    return f"mongodb://{HOST}:{port}/?directConnection=true"


def await_listening(pids: Mapping[int, int | None], deadline: Deadline) -> None:
    """Wait until each node answers on its port. Whoever answers must be the very process: a stranger that was quicker
    to take the port may be a mongod too, and would be reconfigured.

    Args:
        pids: the process id for each port.
        deadline: checks that those processes live.
    """
    for port, pid in pids.items():
        while _pid_behind(port) != pid:
            deadline.pause(f"mongod to listen on {HOST}:{port}")


def _pid_behind(port: int) -> int | None:
    from pymongo.errors import PyMongoError

    with suppress(OSError, PyMongoError):
        # Only once the port is open: a client that is refused looks again after half a second.
        socket.create_connection((HOST, port), timeout=1.0).close()
        with _client(direct_uri(port)) as client:
            return int(client.admin.command({"serverStatus": 1, **_NO_SECTIONS})["pid"])
    return None


def initiate(ports: list[int], deadline: Deadline) -> None:
    """Give the nodes their configuration: the first one, or a new one where the ports have changed."""
    from pymongo.errors import OperationFailure, PyMongoError

    wanted = [f"{HOST}:{port}" for port in ports]
    with _client(direct_uri(ports[0])) as client:
        while True:
            try:
                config = client.admin.command("replSetGetConfig")["config"]
            except OperationFailure as error:
                if error.code == _NOT_YET_INITIALIZED:
                    members = [{"_id": number, "host": host} for number, host in enumerate(wanted)]
                    config = {"_id": NAME, "version": 1, "members": members, "settings": _SETTINGS}
                    client.admin.command("replSetInitiate", config)
                    return
            except PyMongoError:
                pass
            else:
                break
            deadline.pause("the first node to read its configuration")
        if len(config["members"]) != len(wanted):
            raise ConfigurationError(
                f"the data folder holds a set of {len(config['members'])} node(s), and {len(wanted)} were asked for"
            )
        if [member["host"] for member in config["members"]] != wanted:
            for member, host in zip(config["members"], wanted, strict=True):
                member["host"] = host
            config["version"] += 1
            client.admin.command("replSetReconfig", config, force=True)


def await_ready(ports: list[int], deadline: Deadline) -> None:
    """Wait until all these nodes have joined, one as primary, and a majority has taken a write."""
    from pymongo.errors import PyMongoError

    with ExitStack() as clients:
        nodes = [clients.enter_context(_client(direct_uri(port))) for port in ports]
        while True:
            roles = [_role(node) for node in nodes]
            with suppress(PyMongoError):
                if "primary" not in roles:
                    nodes[0].admin.command("replSetStepUp")  # spares the second that an election waits to begin
                elif "other" not in roles:
                    # A write to the oplog that leaves no collection behind. The driver does not look at its concern.
                    note = {"appendOplogNote": 1, "data": {"smriti_scale": "ready"}, "writeConcern": _MAJORITY}
                    if "writeConcernError" not in nodes[roles.index("primary")].admin.command(note):
                        return
            deadline.pause("a primary and a write with majority concern")


def await_joined(port: int, deadline: Deadline) -> None:
    """Wait until the node is primary or secondary."""
    while role(HOST, port, direct_uri(port)) == "other":
        deadline.pause(f"the node at {HOST}:{port} to join its set")


def role(host: str, port: int, uri: str) -> Role:
    """What a node says it is. Quick to say that nobody listens: a client would go on trying for its whole timeout."""
    try:
        socket.create_connection((host, port), timeout=3.0).close()
    except OSError:
        return "other"
    with _client(uri) as client:
        return _role(client)


def _role(client: MongoClient[dict[str, Any]]) -> Role:
    from pymongo.errors import PyMongoError

    try:
        hello = client.admin.command("hello")
    except PyMongoError:
        return "other"
    return "primary" if hello.get("isWritablePrimary") else "secondary" if hello.get("secondary") else "other"


def members_of(uri: str, timeout: float) -> list[tuple[str, int, str]]:
    """Host, port and direct URI of each node that a given URI names, after one of them has answered.

    Raises:
        ConfigurationError: it is no MongoDB URI.
        LocalServerError: no node answers.
    """
    from pymongo import MongoClient
    from pymongo.errors import ConfigurationError as InvalidConfiguration, InvalidURI, PyMongoError
    from pymongo.uri_parser import parse_uri

    try:
        nodes = parse_uri(uri)["nodelist"]
        client: MongoClient[dict[str, Any]] = MongoClient(uri, serverSelectionTimeoutMS=int(timeout * 1000))
    except (InvalidURI, InvalidConfiguration) as error:
        raise ConfigurationError(f"not a usable MongoDB URI: {error}") from error
    try:
        client.admin.command("ping")
    except PyMongoError as error:
        raise LocalServerError(f"the given MongoDB at {nodes} does not answer: {error}") from error
    finally:
        client.close()
    return [(host, port or 27017, _narrowed(uri, f"{host}:{port or 27017}")) for host, port in nodes]


def _narrowed(uri: str, node: str) -> str:
    """The same URI, with its user and options, for one node alone."""
    scheme, user, options = re.match(r"mongodb(\+srv)?://([^/@]*@)?[^/]*/?[^?]*\??(.*)", uri).groups()  # type: ignore[union-attr] # parse_uri took it
    kept = [part for part in options.split("&") if part and part.lower().split("=")[0] not in _WHOLE_SET_OPTIONS]
    kept += ["directConnection=true", *(["tls=true"] if scheme else [])]
    return f"mongodb://{user or ''}{node}/?{'&'.join(kept)}"


_WHOLE_SET_OPTIONS = {"replicaset", "directconnection", "loadbalanced", "readpreference"}


@contextmanager
def _client(uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    """A short-lived client that gives up soon."""
    from pymongo import MongoClient

    client: MongoClient[dict[str, Any]] = MongoClient(
        uri, serverSelectionTimeoutMS=3000, connectTimeoutMS=2000, socketTimeoutMS=10_000
    )
    try:
        yield client
    finally:
        client.close()
