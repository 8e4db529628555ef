"""Loopback ports that nobody listens on."""

from __future__ import annotations

import json
import random
import socket
from contextlib import suppress
from pathlib import Path

from smriti_scale.errors import ConfigurationError, PortTaken

HOST = "127.0.0.1"
_STATE = "ports.json"
# Below the kernel's ephemeral range (32768 on Linux, 49152 on macOS), from which outgoing connections draw: a server
# that is killed and restarted on its port must not find it lent to some client meanwhile.
_FIRST, _LAST = 20_000, 32_000


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now; another process may still be quicker."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago. Drawn at random, so that processes starting together rarely collide.

    Raises:
        PortTaken: hardly a port of the range is free.
    """
    found: list[int] = []
    for port in random.sample(range(_FIRST, _LAST), 2_000):
        if is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise PortTaken(f"no {count} free ports on {HOST} between {_FIRST} and {_LAST}")


def choose_ports(folder: Path, count: int, *, first: int | None) -> list[int]:
    """The ports asked for; else those of the last run, which keeps addresses valid; else free ones.

    Raises:
        PortTaken: a port asked for is in use.
        ConfigurationError: the folder holds a set of another size.
    """
    known: list[int] = []
    with suppress(OSError, ValueError, TypeError):
        known = [int(port) for port in json.loads((folder / _STATE).read_text())]
    if known and len(known) != count:
        raise ConfigurationError(
            f"{folder} holds {len(known)} node(s), and {count} were asked for: ask for {len(known)}, "
            "or choose another data folder"
        )
    if first is not None:
        asked = list(range(first, first + count))
        _require_free(asked)
        return asked
    return known if known and all(map(is_free, known)) else free_ports(count)


def remember_ports(folder: Path, ports: list[int]) -> None:
    """For the next run on this folder."""
    (folder / _STATE).write_text(json.dumps(ports))


def _require_free(ports: list[int]) -> None:
    """
    Raises:
        PortTaken: one of the ports is in use.
    """
    for port in ports:
        if not is_free(port):
            raise PortTaken(f"port {port} on {HOST} is in use: stop what listens there, or choose another port")
