"""What only answers tell: which unmarked endpoints may be kept, and which further headers an answer varies by."""

from __future__ import annotations

from collections.abc import Iterable

from cachetools import LRUCache

from smriti_scale.cache.http.outgoing import Outgoing
from smriti_scale.cache.http.policy import CachePolicy, parse_cache_control, seconds_of

_MOST_PLACES = 10_000
_MOST_VARY_FIELDS = 8


class Learned:
    """Remembers by place: an endpoint, or a path where there are no routes. Bounded, and lost with the process."""

    def __init__(self) -> None:
        self._policies: LRUCache[object, CachePolicy] = LRUCache(_MOST_PLACES)
        self._vary: LRUCache[object, tuple[str, ...]] = LRUCache(_MOST_PLACES)

    def policy(self, place: object) -> CachePolicy | None:
        """The policy that an unmarked place stated in an earlier answer."""
        return self._policies.get(place)

    def policy_from(self, place: object, outgoing: Outgoing) -> None:
        """An endpoint that says `public` by itself is kept from its next answer on."""
        if place in self._policies or not says_public(outgoing):
            return
        directives = _directives(outgoing)
        if "immutable" in directives:
            return  # a static file: reading it costs no more than its copy, and copies would crowd out what does
        self._policies[place] = CachePolicy(
            stale_while_revalidate=seconds_of(directives, "stale-while-revalidate") or 0,
            stale_if_error=seconds_of(directives, "stale-if-error") or 0,
        )

    def vary(self, place: object) -> tuple[str, ...]:
        """Header names, in lower case, that earlier answers varied by."""
        return self._vary.get(place, ())

    def vary_from(self, place: object, fields: Iterable[str]) -> None:
        """From the next request on the key has these fields too. `*`, and more than a few, cannot be kept at all."""
        learned = {*self.vary(place), *fields}
        if learned and "*" not in learned and len(learned) <= _MOST_VARY_FIELDS:
            self._vary[place] = tuple(sorted(learned))


def says_public(outgoing: Outgoing) -> bool:
    """Whether the answer itself states `public`."""
    return "public" in _directives(outgoing)


def _directives(outgoing: Outgoing) -> dict[str, str | None]:
    lines = [value.decode("latin-1") for name, value in outgoing.headers if name == b"cache-control"]
    return parse_cache_control(",".join(lines))
