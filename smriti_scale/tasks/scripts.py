"""Lua scripts on kombu's synchronous connections."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError


class Script:
    """A script of this package: sent by its hash, loaded where the server does not know it."""

    __slots__ = ("sha", "source")

    def __init__(self, name: str) -> None:
        self.source = files("smriti_scale.tasks").joinpath(f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def run(self, client: Redis, keys: Sequence[str], args: Sequence[str | bytes | int | float]) -> Any:
        """One EVALSHA; on NOSCRIPT one EVAL, which also loads it."""
        try:
            return client.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)  # type: ignore[no-untyped-call]
        except NoScriptError:
            return client.execute_command("EVAL", self.source, len(keys), *keys, *args)  # type: ignore[no-untyped-call]
