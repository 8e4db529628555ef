"""Which node may serve a read that must not fall behind a position: what is known, and the choice.

Every reply tells how far its node has come, so most positions are known to be reached without asking. The choice is
made in the read preference, where drivers let one be made. It decides how long a read takes, not whether it is right:
the session that every such command is lent (`causal_driver`) makes the server wait for the position in any case.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from pymongo.read_preferences import Nearest, Secondary, SecondaryPreferred
from pymongo.server_description import ServerDescription
from pymongo.server_selectors import Selection
from pymongo.server_type import SERVER_TYPE

from smriti_scale.breaker import CircuitBreaker
from smriti_scale.clock import Clock
from smriti_scale.events import Events

Address = tuple[str, int | None]


LAG_THRESHOLD = 3
"""Probes that must fail in a row before a node is no longer asked for a while."""


PRIMARY: Address = ("", None)
"""In place of an address: the primary, whichever it is."""

PROBING: ContextVar[Address | None] = ContextVar("smriti_scale.mongo.probing", default=None)
"""Set while a probe runs: its command goes to this node, whatever the position."""


class At(Nearest):
    """A read preference for one node, to ask it about itself."""

    def __init__(self, address: Address) -> None:
        super().__init__()
        self._address = address

    def __call__(self, selection: Selection) -> Selection:
        return selection.with_server_descriptions(
            [node for node in selection.server_descriptions if node.address == self._address]
        )


class Replicas:
    """What one client knows about how far its nodes have come.

    Args:
        position: gives the position that the current context must not fall behind, `packed`; 0 is none.
        fell_back: called for each read that goes to the primary for want of a secondary known to be far enough.
        clock: the source of time.
        events: where breakers report.
    """

    def __init__(
        self, *, position: Callable[[], int], fell_back: Callable[[], None], clock: Clock, events: Events | None
    ) -> None:
        self.reached: dict[Address, int] = {}
        self.newest = 0
        """The newest moment that any node has told of; a position beyond it may be forged."""
        self._position = position
        self._fell_back = fell_back
        self._clock = clock
        self._events = events
        self._breakers: dict[Address, CircuitBreaker] = {}

    def saw(self, address: Address, moment: int) -> None:
        """A reply from `address` carried this operationTime."""
        if moment > self.reached.get(address, 0):
            self.reached[address] = moment
            if moment > self.newest:
                self.newest = moment

    def lost(self, address: Address) -> None:
        """The node is gone; when it comes back it may be behind what it had told (a crash, a rollback)."""
        self.reached.pop(address, None)

    def breaker(self, address: Address) -> CircuitBreaker:
        """Stands between probes and a node that lags."""
        breaker = self._breakers.get(address)
        if breaker is None:
            breaker = self._breakers[address] = CircuitBreaker(
                f"replica {address[0]}:{address[1]}",
                threshold=LAG_THRESHOLD,
                reset_after=1.0,
                reset_max=15.0,
                clock=self._clock,
                events=self._events,
            )
        return breaker

    def lagging(self, address: Address) -> bool:
        """Whether the node is known to be too far behind to ask."""
        breaker = self._breakers.get(address)
        return breaker is not None and breaker.state != "closed"

    def choose(self, selection: Selection, eligible: Selection, *, may_use_primary: bool) -> Selection:
        """Of the nodes that a read preference allows, those that serve the context's position without a wait.

        Args:
            selection: all nodes.
            eligible: those the read preference would take.
            may_use_primary: False for a strict `secondary`.
        """
        probed = PROBING.get()
        if probed is not None:
            asked = [node for node in eligible.server_descriptions if node.address == probed]
            return eligible.with_server_descriptions(asked) if asked else selection.primary_selection or eligible
        position = self._position()
        if not position:
            return eligible
        reached = self.reached
        ready = [
            node
            for node in eligible.server_descriptions
            if node.server_type == SERVER_TYPE.RSPrimary or reached.get(node.address, 0) >= position
        ]
        if ready:
            return eligible.with_server_descriptions(ready)
        if not may_use_primary or selection.primary is None:
            return eligible  # the server lets the read wait until the node has caught up
        self._fell_back()
        return selection.primary_selection

    def pick(self, secondaries: Sequence[ServerDescription]) -> Address | None:
        """The secondary to ask how far it is: one that does not lag, or whose next trial is due; None when none is."""
        addresses = [node.address for node in secondaries]
        random.shuffle(addresses)
        fresh = (address for address in addresses if not self.lagging(address))
        due = (address for address in addresses if self.breaker(address).allows())
        return next(fresh, None) or next(due, None)


class CausalSecondaryPreferred(SecondaryPreferred):
    """`secondaryPreferred`, among the nodes that have reached the caller's position; else the primary."""

    def __init__(self, replicas: Replicas, **options: Any) -> None:
        super().__init__(**options)
        self._replicas = replicas

    def eligible(self, selection: Selection) -> Selection:
        """The nodes that the mode, tags and staleness allow, whatever the position."""
        return super().__call__(selection)

    def __call__(self, selection: Selection) -> Selection:
        return self._replicas.choose(selection, self.eligible(selection), may_use_primary=True)


class CausalNearest(Nearest):
    """`nearest`, among the nodes that have reached the caller's position; else the primary."""

    def __init__(self, replicas: Replicas, **options: Any) -> None:
        super().__init__(**options)
        self._replicas = replicas

    def eligible(self, selection: Selection) -> Selection:
        """The nodes that the mode, tags and staleness allow, whatever the position."""
        return super().__call__(selection)

    def __call__(self, selection: Selection) -> Selection:
        return self._replicas.choose(selection, self.eligible(selection), may_use_primary=True)


class CausalSecondary(Secondary):
    """`secondary`, among the nodes that have reached the caller's position; else it waits for one."""

    def __init__(self, replicas: Replicas, **options: Any) -> None:
        super().__init__(**options)
        self._replicas = replicas

    def eligible(self, selection: Selection) -> Selection:
        """The nodes that the mode, tags and staleness allow, whatever the position."""
        return super().__call__(selection)

    def __call__(self, selection: Selection) -> Selection:
        return self._replicas.choose(selection, self.eligible(selection), may_use_primary=False)
