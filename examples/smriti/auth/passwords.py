"""Password hashes: bcrypt off the event loop, long passwords whole, old hashes renewed.

bcrypt reads 72 bytes at most. A longer password is first digested (SHA-256, base64) and its hash marked, so that every
byte counts. Unmarked hashes of long passwords come from an earlier version, which cut them: they verify against the
first 72 bytes and are renewed at the next login.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import TypeVar, TypeVarTuple

import bcrypt

A = TypeVarTuple("A")
R = TypeVar("R")

_LONGEST = 72
_MARK = "bcrypt-sha256:"


class Verdict(Enum):
    """What checking a password said."""

    WRONG = "wrong"
    RIGHT = "right"
    RIGHT_BUT_OLD = "right, and the hash should be renewed"


class PasswordHasher:
    """Hashes and checks on threads of its own (bcrypt lets go of the GIL), so that no request waits for another's.

    Args:
        rounds: bcrypt's cost: 2**rounds.
        threads: how many hashes are computed at once.
    """

    def __init__(self, *, rounds: int = 12, threads: int = 2) -> None:
        self._rounds = rounds
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._nobody = _hash("a password that nobody has", rounds)

    async def hash(self, password: str) -> str:
        return await self._run(_hash, password, self._rounds)

    async def verify(self, password: str, hashed: str | None) -> Verdict:
        """Check a password. Without a hash (no such user) it takes the same time and the answer is `WRONG`."""
        verdict = await self._run(_verify, password, hashed or self._nobody)
        return verdict if hashed else Verdict.WRONG

    def close(self) -> None:
        """End the threads; the next hash starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    async def _run(self, function: Callable[[*A], R], *arguments: *A) -> R:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="bcrypt")
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


def _digest(password: bytes) -> bytes:
    return base64.b64encode(hashlib.sha256(password).digest())


def _hash(password: str, rounds: int) -> str:
    raw = password.encode()
    salt = bcrypt.gensalt(rounds)
    if len(raw) > _LONGEST:
        return _MARK + bcrypt.hashpw(_digest(raw), salt).decode()
    return bcrypt.hashpw(raw, salt).decode()


def _verify(password: str, hashed: str) -> Verdict:
    raw = password.encode()
    try:
        if hashed.startswith(_MARK):
            right = bcrypt.checkpw(_digest(raw), hashed.removeprefix(_MARK).encode())
            return Verdict.RIGHT if right else Verdict.WRONG
        if not bcrypt.checkpw(raw[:_LONGEST], hashed.encode()):
            return Verdict.WRONG
    except ValueError:  # what is stored is no bcrypt hash
        return Verdict.WRONG
    return Verdict.RIGHT_BUT_OLD if len(raw) > _LONGEST else Verdict.RIGHT
