"""What a MongoDB URI says, without asking DNS: which cluster it names, with which options; and the URI without secrets.

Source: "Connection Strings", MongoDB manual.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl

from smriti_scale.errors import ConfigurationError

_READ_OPTIONS = frozenset({"readpreference", "readpreferencetags", "maxstalenessseconds", "readconcernlevel"})
_SECRET_OPTIONS = frozenset({"tlscertificatekeyfilepassword", "authmechanismproperties", "proxypassword"})


@dataclass(frozen=True, slots=True)
class MongoURI:
    """The parts of a URI.

    Attributes:
        scheme: `mongodb` or `mongodb+srv`.
        hosts: `host:port` each, in lower case; of an SRV URI its one name.
        path: the database for authentication, or empty.
        options: names in lower case, in order; tags may repeat.
        credentials: `user:password` as written. Never shown.
    """

    scheme: str
    hosts: frozenset[str]
    path: str
    options: tuple[tuple[str, str], ...] = field(repr=False)
    credentials: str = field(repr=False)

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Take a URI apart.

        Raises:
            ConfigurationError: it is no MongoDB URI.
        """
        scheme, separator, rest = uri.partition("://")
        if not separator or scheme not in ("mongodb", "mongodb+srv"):
            raise ConfigurationError("a MongoDB URI begins with mongodb:// or mongodb+srv://")
        rest, _, query = rest.partition("?")
        authority, _, path = rest.partition("/")
        credentials, _, hosts = authority.rpartition("@")
        port = "" if scheme == "mongodb+srv" else ":27017"
        named = frozenset(
            host.lower() if ":" in host.rpartition("]")[2] else f"{host.lower()}{port}"
            for host in hosts.split(",")
            if host
        )
        if not named:
            raise ConfigurationError(f"the MongoDB URI {redacted(uri)!r} names no host")
        ports = [host.rpartition(":")[2] for host in named if ":" in host.rpartition("]")[2]]
        if "@" in path or not all(port.isdigit() for port in ports):
            raise ConfigurationError(
                f"the MongoDB URI {redacted(uri)!r} cannot be taken apart: escape the user name and the password with "
                "urllib.parse.quote_plus, and give ports as numbers"
            )
        options = tuple((name.lower(), value) for name, value in parse_qsl(query, keep_blank_values=True))
        return cls(scheme, named, path, options, credentials)

    def option(self, name: str) -> str | None:
        """The value of an option (its name in any case); None when absent."""
        return next((value for known, value in self.options if known == name.lower()), None)

    @property
    def tag_sets(self) -> list[dict[str, str]] | None:
        """`readPreferenceTags` as the driver's read preferences take them, in order; None when there are none."""
        sets = [value for name, value in self.options if name == "readpreferencetags"]
        return [dict(pair.split(":", 1) for pair in tags.split(",") if ":" in pair) for tags in sets] or None

    def same_client(self, other: MongoURI) -> bool:
        """Whether one client can serve both: they differ in nothing, or in what a database handle can carry."""
        return (self.scheme, self.hosts, self.credentials, self.path, self._client_options()) == (
            other.scheme,
            other.hosts,
            other.credentials,
            other.path,
            other._client_options(),
        )

    @property
    def cluster(self) -> str:
        """A name for the cluster: the set's name and its hosts."""
        return "|".join([self.option("replicaset") or "", *sorted(self.hosts)])

    def _client_options(self) -> frozenset[tuple[str, str]]:
        return frozenset(option for option in self.options if option[0] not in _READ_OPTIONS)


def redacted(uri: str) -> str:
    """The URI without its credentials, fit for a log or an error; of one that is malformed, rather less than more."""
    scheme, _, rest = uri.partition("://")
    # A password that is not escaped as it must be can hold any of the marks that part a URI.
    if "@" in rest:
        within = rest.partition("?")[0]
        rest = f"***{rest[(within if '@' in within else rest).rindex('@') :]}"
    front, mark, query = rest.partition("?")
    return f"{scheme}://{front}{mark}{'&'.join(map(_shown_option, query.split('&')))}"


def _shown_option(option: str) -> str:
    name, equals, _ = option.partition("=")
    return f"{name}{equals}***" if name.lower() in _SECRET_OPTIONS else option
