"""Test kit: fixtures for a real replica set and Redis, a clock moved by hand, faults on demand.

Installed with the package; pytest finds `smriti_scale.testing.plugin` by itself. Names are loaded on first use, so a
test run that needs none of them pays nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smriti_scale.testing.fault_proxy import FaultProxy as FaultProxy
    from smriti_scale.testing.manual_clock import ManualClock as ManualClock
    from smriti_scale.testing.replication import fail_point as fail_point, replication_lag as replication_lag

_HOMES = {
    "FaultProxy": "fault_proxy",
    "ManualClock": "manual_clock",
    "fail_point": "replication",
    "replication_lag": "replication",
}

__all__ = ["FaultProxy", "ManualClock", "fail_point", "replication_lag"]


def __getattr__(name: str) -> object:
    if home := _HOMES.get(name):
        return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
