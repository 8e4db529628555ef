"""Scaling primitives for async ASGI apps on MongoDB and Redis.

Every name here loads its module on first use, so importing the package loads no driver and costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS: dict[str, tuple[str, ...]] = {
    "errors": ("ConfigurationError", "MissingExtraError", "ScaleError"),
    "events": ("Event", "Events"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

if TYPE_CHECKING:
    from smriti_scale.errors import ConfigurationError, MissingExtraError, ScaleError
    from smriti_scale.events import Event, Events

__all__ = [
    "ConfigurationError",
    "Event",
    "Events",
    "MissingExtraError",
    "ScaleError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
