"""The tag S3 gives an object that was uploaded in parts, computed from its bytes: pure.

It is the MD5 of the parts' MD5s, a dash, and how many there are. Objects encrypted under a KMS key have another.
"""

from __future__ import annotations

import hashlib


class PartsTag:
    """Takes the bytes in pieces of any size.

    Args:
        part_size: how many bytes each part had, the last excepted.
    """

    def __init__(self, part_size: int) -> None:
        self._part_size = part_size
        self._digests: list[bytes] = []
        self._begin()

    def update(self, piece: bytes) -> None:
        """The next bytes."""
        view = memoryview(piece)
        while view:
            taken = view[: self._room]
            self._part.update(taken)
            self._room -= len(taken)
            view = view[len(taken) :]
            if not self._room:
                self._digests.append(self._part.digest())
                self._begin()

    def value(self) -> str:
        """The tag of what was given so far, without quotes."""
        digests = [*self._digests, self._part.digest()] if self._room < self._part_size else self._digests
        return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"

    def _begin(self) -> None:
        self._part = hashlib.md5(usedforsecurity=False)
        self._room = self._part_size
