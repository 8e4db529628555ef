"""The package as a whole: what importing it costs and hands on."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points, version

import pytest

import smriti_scale

HEAVY = {"motor", "pymongo", "redis", "slowapi", "starlette", "pydantic", "sentry_sdk", "cachetools", "orjson"}


def loaded_after(statement: str) -> set[str]:
    """The modules a fresh interpreter holds after `statement`."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return set(json.loads(output))


def test_importing_the_package_loads_no_driver() -> None:
    loaded = loaded_after("import smriti_scale")
    assert "smriti_scale" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("name", smriti_scale.__all__)
def test_every_public_name_can_be_imported_and_is_what_its_room_hands_on(name: str) -> None:
    value = getattr(smriti_scale, name)
    if name != "__version__":
        room = smriti_scale._ROOM_OF[name]
        assert getattr(sys.modules[f"smriti_scale.{room}"], name) is value


def test_all_lists_exactly_what_is_handed_on_each_once() -> None:
    assert sorted(smriti_scale.__all__) == sorted({*smriti_scale._ROOM_OF, "__version__"})
    assert set(smriti_scale.__all__) <= set(dir(smriti_scale))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cash'"):
        smriti_scale.Cash  # noqa: B018


def test_the_version_stands_in_one_place() -> None:
    assert version("smriti_scale") == smriti_scale.__version__


def test_the_pytest_plugin_and_the_command_are_registered() -> None:
    assert entry_points(group="pytest11", name="smriti_scale")
    assert entry_points(group="console_scripts", name="smriti-scale")
