"""What holds for the whole suite."""

from __future__ import annotations


def pytest_make_parametrize_id(val: object) -> str | None:
    """Long bytes are named by their length: a zip holds the time it was made, and workers must agree on names."""
    return f"{len(val)} bytes" if isinstance(val, bytes) and len(val) > 24 else None
