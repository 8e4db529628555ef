"""What the clients are made with: the arguments of `MongoClients`, as the driver takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pymongo.errors import ConfigurationError as DriverConfigurationError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import Primary, PrimaryPreferred
from pymongo.write_concern import WriteConcern

from smriti_scale.errors import ConfigurationError
from smriti_scale.mongo.replicas import CausalNearest, CausalSecondary, CausalSecondaryPreferred, Replicas
from smriti_scale.mongo.uri import MongoURI


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """What `MongoClients` was given; its docstring says what each means. Times in seconds."""

    database: str
    driver: Literal["motor", "pymongo"]
    max_pool_size: int
    min_pool_size: int
    read_preference: Any
    read_concern: ReadConcern | None
    write_concern: WriteConcern
    write_timeout: float
    operation_timeout: float
    wait_queue_timeout: float
    connect_timeout: float
    probe_timeout: float
    extra: Mapping[str, Any]
    comment: bool = False

    @property
    def retry_after(self) -> float:
        """What to tell clients while MongoDB is not available: an election is over in about this time."""
        return min(5.0, self.write_timeout)

    def for_driver(self, uri: MongoURI) -> dict[str, Any]:
        """Keyword arguments of the driver's client; what the URI says itself is left out."""
        ours: dict[str, Any] = {
            "maxPoolSize": self.max_pool_size,
            "minPoolSize": self.min_pool_size,
            "waitQueueTimeoutMS": round(self.wait_queue_timeout * 1000),
            "serverSelectionTimeoutMS": round(self.write_timeout * 1000),
            "socketTimeoutMS": round(self.operation_timeout * 1000),
            "connectTimeoutMS": round(self.connect_timeout * 1000),
            "retryWrites": True,
            "retryReads": True,
        }
        return {name: value for name, value in ours.items() if uri.option(name) is None} | dict(self.extra)

    def check_read_preference(self, uri: str) -> None:
        """Raises `ConfigurationError` now rather than in the first request."""
        self.read_preference_for(MongoURI.parse(uri), None)

    def read_preference_for(self, uri: MongoURI, replicas: Replicas | None) -> Any:
        """The read preference of the read handle: the URI's, or the one that was given, made causal.

        Raises:
            ConfigurationError: it is none.
        """
        given = self.read_preference
        if named := uri.option("readPreference"):
            staleness = int(uri.option("maxStalenessSeconds") or -1)
            options: dict[str, Any] = {"tag_sets": uri.tag_sets, "max_staleness": staleness}
            mode = named
        elif isinstance(given, str):
            options, mode = {}, given
        else:
            mode = getattr(given, "mongos_mode", repr(given))
            options = {"tag_sets": given.tag_sets, "max_staleness": given.max_staleness} if mode != "primary" else {}
            if mode != "primary" and (hedge := given.document.get("hedge")):
                options["hedge"] = hedge
        if options.get("tag_sets") in (None, [{}]):
            options.pop("tag_sets", None)
        try:
            if mode == "primary":
                return Primary()
            if mode == "primaryPreferred":
                return PrimaryPreferred(**options)
            return _CAUSAL[mode](replicas, **options)
        except KeyError:
            raise ConfigurationError(
                f"read_preference {mode!r} is none of primary, primaryPreferred, secondary, secondaryPreferred, nearest"
            ) from None
        except (TypeError, ValueError, DriverConfigurationError) as error:
            raise ConfigurationError(f"read_preference {mode!r} cannot work: {error}") from error


_CAUSAL: dict[str, Any] = {
    "secondaryPreferred": CausalSecondaryPreferred,
    "secondary": CausalSecondary,
    "nearest": CausalNearest,
}
