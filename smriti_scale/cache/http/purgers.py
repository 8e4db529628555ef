"""What CDNs want to be asked: Fastly, Cloudflare, and anything that takes a request with the keys in a header."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from smriti_scale.errors import ConfigurationError


class Purger(Protocol):
    """Knows how one CDN is asked to forget what carries a tag."""

    @property
    def name(self) -> str:
        """For events and logs."""

    @property
    def batch_size(self) -> int:
        """The most tags that one request can name."""

    def requests(self, keys: Sequence[str], /) -> Iterable[PurgeRequest]:
        """The requests that purge these keys (at most `batch_size`)."""


class PurgeRequest:
    """One HTTP request of a purge. `headers` may hold a secret, so it shows in no representation."""

    __slots__ = ("headers", "json", "method", "url")

    def __init__(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, json: object | None = None
    ) -> None:
        self.method = method
        self.url = url
        self.headers = dict(headers or {})
        self.json = json

    def __repr__(self) -> str:
        return f"PurgeRequest({self.method} {self.url})"


class FastlyPurger:
    """Fastly's purge by surrogate key.

    Args:
        service_id: the service.
        token: an API token with the scope `purge_select`.
        soft: mark stale in place of removing, so that `stale-while-revalidate` still answers.
        api: the API's address.
    """

    name = "fastly"
    batch_size = 256

    def __init__(self, service_id: str, token: str, *, soft: bool = True, api: str = "https://api.fastly.com") -> None:
        self._url = f"{_address(api)}/service/{service_id}/purge"
        self._headers = {"Fastly-Key": _secret("token", token), "Accept": "application/json"}
        if soft:
            self._headers["Fastly-Soft-Purge"] = "1"

    def requests(self, keys: Sequence[str], /) -> Iterable[PurgeRequest]:
        return [PurgeRequest("POST", self._url, headers=self._headers, json={"surrogate_keys": list(keys)})]


class CloudflarePurger:
    """Cloudflare's purge by cache tag.

    Args:
        zone_id: the zone.
        token: an API token with the permission "Cache Purge".
        api: the API's address.
    """

    name = "cloudflare"
    batch_size = 30

    def __init__(self, zone_id: str, token: str, *, api: str = "https://api.cloudflare.com/client/v4") -> None:
        self._url = f"{_address(api)}/zones/{zone_id}/purge_cache"
        self._headers = {"Authorization": f"Bearer {_secret('token', token)}"}

    def requests(self, keys: Sequence[str], /) -> Iterable[PurgeRequest]:
        return [PurgeRequest("POST", self._url, headers=self._headers, json={"tags": list(keys)})]


class HTTPPurger:
    """Varnish, or any proxy that purges on a request which names the keys in a header.

    Args:
        urls: one address for each proxy; all are asked.
        method: `PURGE`, `BAN`, `POST`, …: what the proxy's configuration listens for.
        header: the header with the keys, `xkey-purge` for Varnish's xkey.
        separator: what stands between keys.
        headers: further headers, say a shared secret.
        batch_size: the most keys in one request; 1 where the proxy takes one.
    """

    name = "http"

    def __init__(
        self,
        urls: Sequence[str],
        *,
        method: str = "PURGE",
        header: str = "Surrogate-Key",
        separator: str = " ",
        headers: Mapping[str, str] | None = None,
        batch_size: int = 64,
    ) -> None:
        if isinstance(urls, str) or not urls:
            raise ConfigurationError(f"urls={urls!r} must be a list of addresses, one for each proxy")
        if batch_size < 1:
            raise ConfigurationError(f"batch_size={batch_size!r} must be at least 1")
        self.batch_size = batch_size
        self._urls = [_address(url) for url in urls]
        self._method = method
        self._header = header
        self._separator = separator
        self._headers = dict(headers or {})

    def requests(self, keys: Sequence[str], /) -> Iterable[PurgeRequest]:
        headers = {**self._headers, self._header: self._separator.join(keys)}
        return [PurgeRequest(self._method, url, headers=headers) for url in self._urls]


def _address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"{url!r} is no address: it must start with http:// or https://")
    return url.rstrip("/")


def _secret(name: str, value: str) -> str:
    if not value or not value.isascii() or not value.isprintable():
        raise ConfigurationError(f"{name} is empty or holds characters that no header can carry")
    return value
