"""Who a request is counted for: an address behind trusted proxies, a verified user, an API key.

Nothing a client can write freely may name it: a forged header, or the subject of an unverified token, would let it
evade its own limit and spend another's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from typing import Any, TypeAlias

from starlette._utils import is_async_callable
from starlette.requests import HTTPConnection, Request

from smriti_scale.errors import ConfigurationError

KeyFunc: TypeAlias = Callable[[Request], str]
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_HEADER = 8192
MAX_HOPS = 64
_KNOWN_HOSTS = 8192
UNKNOWN = "unknown"


def parse_networks(networks: Iterable[str]) -> tuple[Network, ...]:
    """Networks or single addresses, `10.0.0.0/8` or `::1`.

    Raises:
        ConfigurationError: one cannot be parsed.
    """
    parsed = []
    for network in networks:
        try:
            parsed.append(ipaddress.ip_network(network.strip(), strict=False))
        except ValueError as error:
            raise ConfigurationError(f"{network!r} is no address or network: {error}") from error
    return tuple(parsed)


def client_address(
    *,
    trusted_proxies: Iterable[str] = (),
    header: str = "X-Forwarded-For",
    ipv4_prefix: int = 32,
    ipv6_prefix: int = 64,
) -> KeyFunc:
    """A key function: the client's address.

    Without `trusted_proxies` no header is read: the peer of the connection is the client. With them, and only when
    the peer is one, the header is walked from the right and the first hop that is no trusted proxy is the client: all
    that stands left of it could have been written by that client. A header that is missing or malformed leaves
    the last hop that was still believed; of a huge one, only the end is read.

    IPv6 clients count by /64, since a single household or host commands all of one.

    Args:
        trusted_proxies: addresses or networks of your own proxies, for instance `["10.0.0.0/8"]`.
        header: `X-Forwarded-For`, `Forwarded` (RFC 7239), or one that your proxy **overwrites** with a single
            address (`X-Real-IP`, `CF-Connecting-IP`, `Fly-Client-IP`).
        ipv4_prefix: how much of an IPv4 address names a client.
        ipv6_prefix: how much of an IPv6 address names a client.

    Raises:
        ConfigurationError: a network that cannot be parsed, or a prefix out of range.
    """
    trusted = parse_networks(trusted_proxies)
    if not 0 < ipv4_prefix <= 32 or not 0 < ipv6_prefix <= 128:
        raise ConfigurationError(f"prefixes must be within 1–32 and 1–128, not {ipv4_prefix} and {ipv6_prefix}")
    wanted = header.lower().encode("latin-1")
    read_hops = _forwarded_hops if wanted == b"forwarded" else _list_hops

    names: dict[str, str] = {}

    def shown(host: str) -> str:
        name = names.get(host)
        if name is None:
            address = _parse(host)
            name = host if address is None else _show(address, ipv4_prefix, ipv6_prefix)
            if len(names) >= _KNOWN_HOSTS:
                names.clear()
            names[host] = name
        return name

    @lru_cache(maxsize=1024)
    def is_trusted(host: str) -> bool:
        address = _parse(host)
        # A server on a Unix socket has no peer address: only a proxy can be there.
        return host == UNKNOWN if address is None else any(address in network for network in trusted)

    def peer_of(request: Request) -> str:
        peer = request.scope.get("client")
        host = peer[0] if peer and peer[0] else UNKNOWN
        return names.get(host) or shown(host)  # the usual case without a call

    def address_of(request: Request) -> str:
        peer = request.scope.get("client")
        host = peer[0] if peer and peer[0] else UNKNOWN
        if not is_trusted(host):
            return shown(host)
        values = [value for name, value in request.scope["headers"] if name == wanted]
        if not values:
            return shown(host)
        believed = host
        # Only the end of a huge header is read: that is where the proxies wrote.
        chain = b",".join(values)[-MAX_HEADER:].decode("latin-1")
        for number, hop in enumerate(reversed(read_hops(chain))):
            address = _parse(hop)
            if address is None or number >= MAX_HOPS:
                break
            believed = str(address)
            if not any(address in network for network in trusted):
                break
        return shown(believed)

    return address_of if trusted else peer_of


def user_or_address(
    user: str | Callable[[Request], object] = "user_id",
    *,
    address: KeyFunc | None = None,
) -> KeyFunc:
    """A key function: the signed-in user, or the address of who is not.

    Args:
        user: the name of an attribute of `request.state` that **your authentication sets after verifying** the
            caller, or a function of the request that returns the verified user's id, or None. Never decode a token
            here without checking its signature: whoever forges a subject would count as that user.
        address: how strangers are told apart; `client_address()` unless given.
    """
    by_address = address or client_address()
    read = _state_reader(user) if isinstance(user, str) else user

    def identity_of(request: Request) -> str:
        found = read(request)
        return f"user:{found}" if found is not None and found != "" else f"ip:{by_address(request)}"

    return identity_of


def api_key(
    verify: Callable[[str], object] | Callable[[str], Awaitable[object]],
    *,
    header: str = "X-API-Key",
    address: KeyFunc | None = None,
) -> Callable[[Request], Any]:
    """A key function: the owner of a valid API key, or the address of who has none.

    Args:
        verify: takes the key and returns its owner's id, or None when the key is not valid; may be async (then only
            async routes can be limited by it). An invalid key counts as no key, so inventing keys evades nothing.
        header: the header that carries the key.
        address: how callers without a valid key are told apart; `client_address()` unless given.
    """
    by_address = address or client_address()
    wanted = header.lower().encode("latin-1")

    def given(request: Request) -> str | None:
        value = next((value for name, value in request.scope["headers"] if name == wanted), None)
        return None if value is None or len(value) > MAX_HEADER else value.decode("latin-1")

    def named(owner: object, request: Request) -> str:
        return f"key:{owner}" if owner is not None and owner != "" else f"ip:{by_address(request)}"

    def identity_of(request: Request) -> str:
        key = given(request)
        return named(verify(key) if key is not None else None, request)

    async def identity_awaited(request: Request) -> str:
        key = given(request)
        return named(await verify(key) if key is not None else None, request)  # type: ignore[misc]  # it is async

    return identity_awaited if is_async_callable(verify) else identity_of


class IdentityList:
    """Identities and networks that are always let through, or always refused. May be changed while serving.

    Args:
        entries: identities as the key function returns them (`user:42`), addresses or networks.
    """

    __slots__ = ("_exact", "_networks", "_verdicts", "_watchers", "filled")

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._exact: set[str] = set()
        self._networks: set[Network] = set()
        self._verdicts: dict[str, bool] = {}
        self._watchers: list[Callable[[], object]] = []
        self.filled = False
        """Whether anything is on the list."""
        for entry in entries:
            self.add(entry)

    def __bool__(self) -> bool:
        return self.filled

    def watch(self, watcher: Callable[[], object]) -> None:
        """Have it called after each change, so that nobody has to look for every request."""
        self._watchers.append(watcher)

    def __contains__(self, identity: str) -> bool:
        if identity in self._exact:
            return True
        if not self._networks:
            return False
        verdict = self._verdicts.get(identity)
        if verdict is None:
            if len(self._verdicts) >= 4096:
                self._verdicts.clear()
            network = _network_of(identity.removeprefix("ip:").removeprefix("address:"))
            verdict = network is not None and any(
                network.version == known.version and network.subnet_of(known)  # type: ignore[arg-type]
                for known in self._networks
            )
            self._verdicts[identity] = verdict
        return verdict

    def add(self, entry: str) -> None:
        """Put an identity, address or network on the list."""
        self._verdicts.clear()
        if (network := _network_of(entry)) is not None:
            self._networks.add(network)
        self._exact.add(entry)
        self._changed()

    def discard(self, entry: str) -> None:
        """Take it off again; not being there is no error."""
        self._verdicts.clear()
        self._exact.discard(entry)
        if (network := _network_of(entry)) is not None:
            self._networks.discard(network)
        self._changed()

    def _changed(self) -> None:
        self.filled = bool(self._exact or self._networks)
        for watcher in self._watchers:
            watcher()


def _network_of(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _state_reader(name: str) -> Callable[[HTTPConnection], object]:
    def read(request: HTTPConnection) -> object:
        return getattr(request.state, name, None)

    return read


def _show(address: Address, ipv4_prefix: int, ipv6_prefix: int) -> str:
    prefix = ipv4_prefix if address.version == 4 else ipv6_prefix
    if prefix == address.max_prefixlen:
        return str(address)
    return str(ipaddress.ip_network((address, prefix), strict=False))


def _parse(text: str) -> Address | None:
    """An address, with the port, brackets and zone that hops come with; IPv4 in IPv6 is IPv4."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _list_hops(value: str) -> list[str]:
    return value.split(",")


def _forwarded_hops(value: str) -> list[str]:
    """The `for=` of each element of a `Forwarded` header; an element without one is a hop that cannot be believed."""
    hops = []
    for element in value.split(","):
        pairs = (pair.partition("=") for pair in element.split(";"))
        hops.append(next((found.strip() for name, _, found in pairs if name.strip().lower() == "for"), ""))
    return hops
