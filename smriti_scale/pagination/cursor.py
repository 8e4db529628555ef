"""Cursors: a position in a list as signed, opaque, URL-safe text.

A cursor holds the sort values of one row, as BSON, so that every type comes back exactly as it was. It is signed with
HMAC (RFC 2104) over BLAKE2b (RFC 7693), cut to 128 bits, and what is signed includes the list it belongs to:
collection, sort, filter and scope. The signature is compared in constant time before anything inside is read.

Why BLAKE2b: a page makes two signatures and checks one, with whatever else the process does in between, and OpenSSL's
one-shot HMAC-SHA256 costs 10 to 25 µs a call when its code has left the processor's cache; this one costs about 6.

Layout, before base64url without padding (RFC 4648, section 5):

| bytes | what |
| --- | --- |
| 1 | version |
| 1 | flags: backward, inclusive, ties, expiring |
| 0 or 4 | when it expires, seconds since the epoch, big-endian |
| 6 | hints, 16 bits each for sort, filter and scope: they only name the reason of a refusal |
| n | the values, one BSON document |
| 16 | the signature |
"""

from __future__ import annotations

import hashlib
import hmac
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any, NamedTuple

import bson
from bson.codec_options import CodecOptions
from bson.errors import BSONError

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError, InvalidCursor

Secret = str | bytes
SortKeys = Sequence[tuple[str, int]]

MAX_LENGTH = 8_000
"""Longer text is refused unread, and longer cursors are never made: no URL carries them."""

_VERSION = 1
_NAMES = tuple(map(str, range(64)))
_BACKWARD, _INCLUSIVE, _TIES, _EXPIRES = 1, 2, 4, 8
_HEADS = tuple(bytes((_VERSION, flags)) for flags in range(16))
_MAC = 16
_KEPT = 1_024
_LONGEST_KEPT = 1_024
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_TO_URL = bytes.maketrans(b"+/", b"-_")
# What is not of the base64url alphabet becomes what is not of base64's, so that one cursor has one spelling.
_FROM_URL = bytes.maketrans(b"-_+/=", b"+/!!!")
_PADDING = (b"", b"", b"==", b"=")
_ENDS: tuple[frozenset[int], ...] = (
    frozenset(_BASE64),
    frozenset(),
    frozenset(b"AQgw"),
    frozenset(b"AEIMQUYcgkosw048"),
)
"""How a text of each length modulo 4 may end: the bits that its last character has to spare are zero."""
_HINTS = 6
_REASONS = ("sort", "filter", "scope")
_DEFAULT_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
_PURPOSE_SIGN = b"smriti_scale.pagination cursor signature 1"
_PURPOSE_HINT = b"smriti_scale.pagination cursor hint 1"


class Position(NamedTuple):
    """Where in a list a page begins.

    Args:
        values: the sort values of the row at that place, one for each sort field.
        backward: the page lies before the row instead of after it.
        inclusive: the row itself belongs to the page.
        ties: the page that made this cursor held one value of the first sort field only.
    """

    values: tuple[Any, ...]
    backward: bool = False
    inclusive: bool = False
    ties: bool = False


@dataclass(slots=True)  # not frozen, which costs more than the rest of making one
class Binding:
    """What a cursor belongs to, as bytes: made by `CursorCodec.bind`, and shared by all pages of the list."""

    digest: bytes
    parts: tuple[bytes, bytes, bytes]
    hints: bytes
    options: CodecOptions[Any]


@dataclass(frozen=True, slots=True)
class _Keys:
    """What one secret makes: the two halves of the HMAC, begun with the key, and the key of the hints."""

    inner: hashlib.blake2b
    outer: hashlib.blake2b
    hint: bytes


class CursorCodec:
    """Makes and reads cursors.

    Args:
        secret: at least 16 bytes, kept on the server. Several rotate: the first signs, all are accepted.
        expires: seconds a cursor lives; None for ever.
        clock: where the time comes from.

    Raises:
        ConfigurationError: no secret, a short one, or a lifetime that is not positive.
    """

    __slots__ = ("_bindings", "_clock", "_expires", "_keys", "_orderings")

    def __init__(
        self, secret: Secret | Sequence[Secret], *, expires: float | None = None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        secrets = [secret] if isinstance(secret, (str, bytes)) else list(secret)
        if not secrets:
            raise ConfigurationError("a cursor needs a secret: pass secret=..., at least 16 bytes")
        if expires is not None and not expires > 0:
            raise ConfigurationError(f"expires={expires!r} must be a positive number of seconds, or None")
        self._keys = tuple(_derive(each) for each in secrets)
        self._expires = expires
        self._clock = clock
        self._orderings: dict[tuple[str, SortKeys], bytes] = {}
        self._bindings: dict[bytes, Binding] = {}

    def bind(
        self,
        *,
        sort: SortKeys = (),
        filter: Mapping[str, Any] | None = None,
        scope: Any = None,
        collection: str = "",
        options: CodecOptions[Any] | None = None,
    ) -> Binding:
        """Say which list the cursors of one page belong to.

        Args:
            sort: the list's sort.
            filter: the list's filter; the order of its keys and of the values of an `$in` does not matter.
            scope: whom the list is for, such as the user's id; None when it is for everyone.
            collection: the collection's name.
            options: the BSON options that values are read with; the collection's.

        Raises:
            ConfigurationError: the scope is not text.
        """
        options = options or _DEFAULT_OPTIONS
        ordering = self._ordering(collection, sort)
        chosen = _canonical(filter, options) if filter else b""
        if scope is not None and not isinstance(scope, str):
            raise ConfigurationError(f"scope={scope!r} must be text, such as str(user_id)")
        whose = b"" if scope is None else b"\x01" + scope.encode("utf-8", "surrogatepass")
        parts = (ordering, chosen, whose)
        # With the lengths of all but the last, no two different lists give the same bytes.
        whole = b"%d,%d,%b%b%b" % (len(ordering), len(chosen), ordering, chosen, whose)
        known = self._bindings.get(whole)
        if known is None or known.options is not options:  # kept, since the same readers page the same lists
            hints = b"".join([_hint(self._keys[0], part) for part in parts])
            known = Binding(hashlib.blake2b(whole, digest_size=32).digest(), parts, hints, options)
            if len(whole) <= _LONGEST_KEPT:
                if len(self._bindings) >= _KEPT:
                    self._bindings.clear()
                self._bindings[whole] = known
        return known

    def _ordering(self, collection: str, sort: SortKeys) -> bytes:
        """A list's collection and sort as bytes; kept, since an application has a few of them."""
        key = (collection, tuple(sort))
        known = self._orderings.get(key)
        if known is None:
            known = repr((collection, [(field, direction) for field, direction in sort])).encode()
            if len(self._orderings) < _KEPT:
                self._orderings[key] = known
        return known

    def encode(self, position: Position | Sequence[Any], binding: Binding | None = None) -> str:
        """The cursor for a position (or for the values of one, going forward).

        Raises:
            ConfigurationError: the values are so long that no URL would carry the cursor.
        """
        binding = binding or self.bind()
        if not isinstance(position, Position):
            return self.sign(position, binding)
        return self.sign(
            position.values,
            binding,
            backward=position.backward,
            inclusive=position.inclusive,
            ties=position.ties,
        )

    def sign(
        self,
        values: Sequence[Any],
        binding: Binding,
        *,
        backward: bool = False,
        inclusive: bool = False,
        ties: bool = False,
    ) -> str:
        """`encode` without the `Position`, for two cursors a page."""
        flags = 0
        if backward:
            flags = _BACKWARD
        if inclusive:
            flags |= _INCLUSIVE
        if ties:
            flags |= _TIES
        document = bson.encode(dict(zip(_NAMES, values, strict=False)), codec_options=binding.options)
        if self._expires is None:
            body = _HEADS[flags] + binding.hints + document
        else:
            expiry = min(int(self._clock.time() + self._expires), 0xFFFF_FFFF).to_bytes(4, "big")
            body = _HEADS[flags | _EXPIRES] + expiry + binding.hints + document
        token = _text(body + _sign(self._keys[0], body, binding)).decode("ascii")
        if len(token) > MAX_LENGTH:
            raise ConfigurationError(
                f"a cursor of {len(token)} characters fits no URL: the list is sorted by very long values; "
                "sort by a shorter field"
            )
        return token

    def decode(self, token: str, binding: Binding | None = None) -> Position:
        """The position a cursor names.

        Raises:
            InvalidCursor: it is not a cursor of this codec and list. The reason is one of `malformed`, `version`,
                `signature`, `sort`, `filter`, `scope` and `expired`.
        """
        binding = binding or self.bind()
        raw = _unpack(token)
        body, signature = raw[:-_MAC], raw[-_MAC:]
        verified = False
        for keys in self._keys:  # every key is tried, whichever fits: time tells nothing about which
            verified |= compare_digest(_sign(keys, body, binding), signature)
        if not verified:
            raise InvalidCursor(self._why(body, binding))
        if body[0] != _VERSION:
            raise InvalidCursor("version")
        flags, at = body[1], 2
        if flags & _EXPIRES:
            at = 6
            if self._clock.time() >= int.from_bytes(body[2:6], "big"):
                raise InvalidCursor("expired")
        try:
            values = bson.decode(body[at + _HINTS :], codec_options=binding.options)
        except (BSONError, ValueError, OverflowError):
            raise InvalidCursor("malformed") from None
        return Position(tuple(values.values()), flags & _BACKWARD != 0, flags & _INCLUSIVE != 0, flags & _TIES != 0)

    def _why(self, body: bytes, binding: Binding) -> str:
        """The likeliest reason for a signature that does not fit, by the unsigned hints: for logs, never for trust."""
        if body[0] != _VERSION:
            return "version"
        at = 6 if body[1] & _EXPIRES else 2
        given = body[at : at + _HINTS]
        expected = [b"".join([_hint(keys, part) for part in binding.parts]) for keys in self._keys]
        if any(given == whole for whole in expected):
            return "signature"
        for whole in expected:
            matches = [given[i : i + 2] == whole[i : i + 2] for i in range(0, _HINTS, 2)]
            if any(matches):
                return _REASONS[matches.index(False)]
        return "signature"


def encode_cursor(
    values: Sequence[Any],
    *,
    secret: Secret | Sequence[Secret],
    sort: SortKeys = (),
    filter: Mapping[str, Any] | None = None,
    scope: str | None = None,
    expires: float | None = None,
) -> str:
    """Sign a row's sort values as a cursor, without a paginator.

    Args:
        values: BSON values, such as `[post["created_at"], post["_id"]]`.
        secret: at least 16 bytes; see `CursorCodec`.
        sort, filter, scope: the list the cursor belongs to; the same must be given to `decode_cursor`.
        expires: seconds it lives; None for ever.

    Raises:
        ConfigurationError: the secret is too short, or the values are too long.
    """
    codec = CursorCodec(secret, expires=expires)
    return codec.encode(values, codec.bind(sort=sort, filter=filter, scope=scope))


def decode_cursor(
    token: str,
    *,
    secret: Secret | Sequence[Secret],
    sort: SortKeys = (),
    filter: Mapping[str, Any] | None = None,
    scope: str | None = None,
) -> tuple[Any, ...]:
    """The values inside a cursor that `encode_cursor` made for the same list. Datetimes come back aware, in UTC.

    Raises:
        InvalidCursor: altered, expired, or made for another list or scope.
    """
    codec = CursorCodec(secret)
    return codec.decode(token, codec.bind(sort=sort, filter=filter, scope=scope)).values


def _derive(secret: Secret) -> _Keys:
    """One key for each purpose, so that a signature made elsewhere with the same secret is worth nothing here."""
    raw = secret.encode() if isinstance(secret, str) else bytes(secret)
    if len(raw) < 16:
        raise ConfigurationError(
            f"a cursor secret has {len(raw)} bytes; at least 16 are needed: "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"
        )
    sign = hmac.digest(raw, _PURPOSE_SIGN, "sha256").ljust(hashlib.blake2b.MAX_KEY_SIZE * 2, b"\0")
    return _Keys(
        hashlib.blake2b(bytes([byte ^ 0x36 for byte in sign])),
        hashlib.blake2b(bytes([byte ^ 0x5C for byte in sign])),
        hmac.digest(raw, _PURPOSE_HINT, "sha256"),
    )


def _sign(keys: _Keys, body: bytes, binding: Binding) -> bytes:
    """`hmac.digest(key, binding.digest + body, "blake2b")`, from where the key has been taken in already."""
    inner, outer = keys.inner.copy(), keys.outer.copy()
    inner.update(binding.digest + body)
    outer.update(inner.digest())
    return outer.digest()[:_MAC]


def _hint(keys: _Keys, part: bytes) -> bytes:
    return hashlib.blake2b(part, digest_size=2, key=keys.hint).digest()


def _text(raw: bytes) -> bytes:
    """Base64url without padding."""
    return b2a_base64(raw, newline=False).translate(_TO_URL).rstrip(b"=")


def _unpack(token: Any) -> bytes:
    if not isinstance(token, str) or not 0 < len(token) <= MAX_LENGTH or not token.isascii():
        raise InvalidCursor("malformed")
    text = token.encode("ascii").translate(_FROM_URL)
    over = len(text) & 3
    # Python skips spare bits; one cursor has one spelling here.
    if text[-1] not in _ENDS[over]:
        raise InvalidCursor("malformed")
    try:
        raw = a2b_base64(text + _PADDING[over], strict_mode=True)
    except ValueError:
        raise InvalidCursor("malformed") from None
    if len(raw) < 2 + 4 + _HINTS + _MAC:
        raise InvalidCursor("malformed")
    return raw


def _canonical(filter: Mapping[str, Any], options: CodecOptions[Any]) -> bytes:
    return bson.encode(_ordered(filter, options), codec_options=options)


def _ordered(clause: Mapping[str, Any], options: CodecOptions[Any]) -> dict[str, Any]:
    """A filter with the keys of its clauses sorted; the key order of a literal subdocument has meaning and stays."""
    ordered: dict[str, Any] = {}
    for key in sorted(clause):
        value = clause[key]
        if isinstance(value, Mapping):
            if value and next(iter(value)).startswith("$"):
                value = _ordered(value, options)
        elif isinstance(value, (list, tuple)) and key.startswith("$"):
            if key in ("$in", "$nin"):
                value = sorted(value, key=lambda item: bson.encode({"": item}, codec_options=options))
            elif key in ("$and", "$or", "$nor"):
                value = [_ordered(item, options) if isinstance(item, Mapping) else item for item in value]
        ordered[key] = value
    return ordered
