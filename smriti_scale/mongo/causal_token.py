"""A position in a cluster's history, as a value: taken from replies, merged by maximum, carried as text.

Two times make a position: `operationTime`, which a later read must not fall behind, and the gossiped `$clusterTime`,
without which a node that has not heard of that moment refuses to wait for it (code 72). Source: MongoDB manual,
"Causal Consistency and Read and Write Concerns"; Tyulenev et al., "Implementation of Cluster-wide Logical Clock and
Causal Consistency in MongoDB" (SIGMOD 2019).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from bson import Int64
from bson.timestamp import Timestamp

from smriti_scale.errors import ConfigurationError, InvalidCausalToken

CLUSTER_BYTES = 4
_HASH_BYTES = 20
_VERSION = 1
_LAYOUT = struct.Struct(f">B{CLUSTER_BYTES}sQQq{_HASH_BYTES}s")
_EXPIRY = struct.Struct(">I")
_MAC_BYTES = 16
_MAX_TEXT = 256


def packed(moment: Timestamp) -> int:
    """A BSON timestamp as one comparable integer: seconds, then the counter within the second."""
    return int(moment.time) << 32 | int(moment.inc)


def unpacked(moment: int) -> Timestamp:
    """The inverse of `packed`."""
    return Timestamp(moment >> 32, moment & 0xFFFFFFFF)


def cluster_label(name: str) -> bytes:
    """Four bytes that tell one cluster's tokens from another's."""
    return hashlib.sha256(name.encode()).digest()[:CLUSTER_BYTES]


@dataclass(frozen=True, slots=True)
class CausalToken:
    """A position in one cluster's history.

    Attributes:
        operation_time: reads must not fall behind this moment (`packed`).
        cluster_time: the newest moment heard of when the token was made (`packed`).
        signature: the cluster's own signature of `cluster_time`, 20 bytes; zeros without authentication.
        key_id: which of the cluster's keys signed.
        cluster: `cluster_label` of the cluster.
    """

    operation_time: int
    cluster_time: int
    signature: bytes = bytes(_HASH_BYTES)
    key_id: int = 0
    cluster: bytes = bytes(CLUSTER_BYTES)

    @classmethod
    def from_reply(
        cls, operation_time: Timestamp, cluster_time: Mapping[str, Any] | None, *, cluster: bytes = bytes(CLUSTER_BYTES)
    ) -> Self:
        """The position that a command's reply (or a driver session) tells.

        Args:
            operation_time: `operationTime`.
            cluster_time: `$clusterTime`: `{"clusterTime": …, "signature": {"hash": …, "keyId": …}}`.
            cluster: which cluster it is.
        """
        at = packed(operation_time)
        if cluster_time is None:
            return cls(at, at, cluster=cluster)
        signature = cluster_time.get("signature") or {}
        return cls(
            at,
            max(at, packed(cluster_time["clusterTime"])),
            bytes(signature.get("hash", b"")).ljust(_HASH_BYTES, b"\0"),
            int(signature.get("keyId", 0)),
            cluster,
        )

    @property
    def timestamp(self) -> Timestamp:
        """`operation_time` as the driver's sessions take it (`advance_operation_time`)."""
        return unpacked(self.operation_time)

    @property
    def gossip(self) -> dict[str, Any]:
        """The cluster time as the driver's sessions take it (`advance_cluster_time`)."""
        return {
            "clusterTime": unpacked(self.cluster_time),
            "signature": {"hash": self.signature, "keyId": Int64(self.key_id)},
        }

    def merge(self, other: CausalToken | None) -> CausalToken:
        """The later of both, in each of the two times; a cluster time keeps its own signature.

        Raises:
            InvalidCausalToken: `other` is of another cluster, whose clock is not comparable.
        """
        if other is None or other == self:
            return self
        if other.cluster != self.cluster:
            raise InvalidCausalToken("foreign")
        clock = self if self.cluster_time >= other.cluster_time else other
        return CausalToken(
            max(self.operation_time, other.operation_time),
            clock.cluster_time,
            clock.signature,
            clock.key_id,
            self.cluster,
        )

    def encode(self) -> str:
        """Opaque text for places that are trusted: task messages, cache invalidations. For others: `TokenSigner`."""
        return _text(self._bytes())

    @classmethod
    def decode(cls, text: str) -> Self:
        """The token that `encode` wrote.

        Raises:
            InvalidCausalToken: the text is no token.
        """
        return cls._of(_raw(text))

    def _bytes(self) -> bytes:
        return _LAYOUT.pack(_VERSION, self.cluster, self.operation_time, self.cluster_time, self.key_id, self.signature)

    @classmethod
    def _of(cls, raw: bytes) -> Self:
        if len(raw) != _LAYOUT.size or raw[0] != _VERSION:
            raise InvalidCausalToken("malformed")
        _, cluster, operation_time, cluster_time, key_id, signature = _LAYOUT.unpack(raw)
        if not 0 < operation_time <= cluster_time:
            raise InvalidCausalToken("malformed")
        return cls(operation_time, cluster_time, signature, key_id, cluster)


class TokenSigner:
    """Tokens for places that are not trusted (cookies, headers): signed with HMAC-SHA256, and with an expiry.

    Args:
        secrets: one key or several, each at least 16 bytes: the first signs, all verify, so that keys can rotate.
        ttl: seconds until a signed token is void.

    Raises:
        ConfigurationError: no key, or one that is too short.
    """

    __slots__ = ("_keys", "ttl")

    def __init__(self, secrets: str | bytes | Sequence[str | bytes], *, ttl: float) -> None:
        given = [secrets] if isinstance(secrets, (str, bytes)) else list(secrets)
        raw = [key.encode() if isinstance(key, str) else key for key in given]
        if not raw or min(map(len, raw)) < 16:
            raise ConfigurationError("the secret that signs consistency tokens must be at least 16 bytes long")
        # Derived, so that a secret shared with other signers never signs two kinds of things.
        self._keys = [hmac.digest(key, b"smriti_scale/causal-token", "sha256") for key in raw]
        self.ttl = ttl

    def sign(self, token: CausalToken, *, now: float) -> str:
        """The signed text, about 115 characters of the base64url alphabet.

        Args:
            token: what to carry.
            now: seconds since the epoch.
        """
        body = token._bytes() + _EXPIRY.pack(int(now + self.ttl) & 0xFFFFFFFF)
        return _text(body + self._mac(self._keys[0], body))

    def verify(self, text: str, *, now: float) -> CausalToken:
        """The token inside.

        Args:
            text: what a client sent.
            now: seconds since the epoch.

        Raises:
            InvalidCausalToken: its `reason` is `malformed`, `signature` or `expired`.
        """
        raw = _raw(text)
        if len(raw) != _LAYOUT.size + _EXPIRY.size + _MAC_BYTES:
            raise InvalidCausalToken("malformed")
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if not any(hmac.compare_digest(self._mac(key, body), mac) for key in self._keys):
            raise InvalidCausalToken("signature")
        if _EXPIRY.unpack(body[-_EXPIRY.size :])[0] < now:
            raise InvalidCausalToken("expired")
        return CausalToken._of(body[: -_EXPIRY.size])

    @staticmethod
    def _mac(key: bytes, body: bytes) -> bytes:
        return hmac.digest(key, body, "sha256")[:_MAC_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _raw(text: str) -> bytes:
    if len(text) > _MAX_TEXT:
        raise InvalidCausalToken("malformed")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidCausalToken("malformed") from None
