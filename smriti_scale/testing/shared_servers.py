"""The servers of one pytest session: started when first asked for, shared by pytest-xdist's workers.

They belong to the controlling process. Workers ask it over a loopback socket, so that a server is started once, only
if some test wants it, and outlives the worker that asked first.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import socketserver
import threading
from typing import TYPE_CHECKING, Literal, Protocol

from smriti_scale.errors import LocalServerError

if TYPE_CHECKING:
    from smriti_scale.local import LocalMongo, LocalRedis

Kind = Literal["mongo", "redis"]


class ServerSource(Protocol):
    """Where a session's fixtures get their servers."""

    def mongo(self) -> LocalMongo:
        """The session's replica set, running."""
        ...

    def redis(self) -> LocalRedis:
        """The session's Redis, running."""
        ...

    def close(self) -> None:
        """Stop what was started here."""
        ...


class OwnServers:
    """Starts each server once, at the first call, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mongo: LocalMongo | LocalServerError | None = None
        self._redis: LocalRedis | LocalServerError | None = None
        self._desk: _Desk | None = None

    def mongo(self) -> LocalMongo:
        from smriti_scale.local import LocalMongo

        with self._lock:
            if self._mongo is None:
                try:
                    self._mongo = LocalMongo(replicas=3, test_commands=True)
                    self._mongo.start()
                except LocalServerError as error:  # kept: the next thousand tests fail at once, not after a minute
                    self._mongo = error
            if isinstance(self._mongo, LocalServerError):
                raise self._mongo
            return self._mongo

    def redis(self) -> LocalRedis:
        from smriti_scale.local import LocalRedis

        with self._lock:
            if self._redis is None:
                try:
                    self._redis = LocalRedis()
                    self._redis.start()
                except LocalServerError as error:
                    self._redis = error
            if isinstance(self._redis, LocalServerError):
                raise self._redis
            return self._redis

    def address_for_workers(self) -> dict[str, object]:
        """What a worker needs to ask this process; serving begins with the first call."""
        if self._desk is None:
            self._desk = _Desk(self)
        return {"port": self._desk.server_address[1], "token": self._desk.token}

    def close(self) -> None:
        if self._desk is not None:
            self._desk.shutdown()
            self._desk.server_close()
        for server in (self._mongo, self._redis):
            if server is not None and not isinstance(server, LocalServerError):
                server.stop()


class ServersOfController:
    """Asks the controlling process; each server once."""

    def __init__(self, address: dict[str, object]) -> None:
        self._address = address
        self._mongo: LocalMongo | None = None
        self._redis: LocalRedis | None = None

    def mongo(self) -> LocalMongo:
        from smriti_scale.local import LocalMongo

        if self._mongo is None:
            self._mongo = LocalMongo(uri=self._ask("mongo"))
            self._mongo.start()
        return self._mongo

    def redis(self) -> LocalRedis:
        from smriti_scale.local import LocalRedis

        if self._redis is None:
            self._redis = LocalRedis(uri=self._ask("redis"))
            self._redis.start()
        return self._redis

    def close(self) -> None:
        """Nothing to do: the controller stops its servers."""

    def _ask(self, kind: Kind) -> str:
        question = {"token": self._address["token"], "want": kind}
        try:
            with socket.create_connection(("127.0.0.1", int(str(self._address["port"]))), timeout=180.0) as line:
                line.sendall(json.dumps(question).encode() + b"\n")
                with line.makefile("rb") as answers:
                    answer = json.loads(answers.readline())
        except (OSError, ValueError) as error:
            raise LocalServerError(
                f"the pytest controller did not give its {kind} server: {error!r}. Workers on other machines need "
                "SMRITI_MONGODB_URI and SMRITI_REDIS_URL in their environment"
            ) from error
        if "error" in answer:
            raise LocalServerError(answer["error"])
        return str(answer["uri"])


class _Desk(socketserver.ThreadingTCPServer):
    """Where workers ask. A token keeps other users of the machine out."""

    daemon_threads = True

    def __init__(self, servers: OwnServers) -> None:
        super().__init__(("127.0.0.1", 0), _Question)
        self.token = secrets.token_hex(16)
        self.servers = servers
        threading.Thread(target=self.serve_forever, name="smriti-scale-servers", daemon=True).start()


class _Question(socketserver.StreamRequestHandler):
    server: _Desk

    def handle(self) -> None:
        question = json.loads(self.rfile.readline(1024))
        if not hmac.compare_digest(str(question.get("token")), self.server.token):
            return
        servers = self.server.servers
        try:
            server = servers.mongo() if question["want"] == "mongo" else servers.redis()
            answer = {"uri": server.uri}
        except LocalServerError as error:
            answer = {"error": str(error)}
        self.wfile.write(json.dumps(answer).encode() + b"\n")
