"""From a server's last words to the error that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from smriti_scale.errors import DataVersionMismatch, LocalServerError, MissingSharedLibrary, PortTaken
from smriti_scale.local.diagnosis import diagnose, telling_lines

LOG = Path("/data/mongod-0.log")


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        (
            "mongod: error while loading shared libraries: libcurl.so.4: cannot open shared object file: No such file",
            "libcurl.so.4 is missing.*apt-get install libcurl4$",
        ),
        (
            "redis-server: error while loading shared libraries: libodd.so.9: cannot open shared object file",
            "apt-file search libodd.so.9",
        ),
        ("dyld: Library not loaded: /opt/lib/liblzma.5.dylib", "liblzma.5.dylib is missing"),
    ],
)
def test_the_loader_s_message_becomes_the_package_to_install(output: str, advice: str) -> None:
    error = diagnose("mongod-0", 127, output, log=LOG)
    assert isinstance(error, MissingSharedLibrary)
    with pytest.raises(MissingSharedLibrary, match=advice):
        raise error


@pytest.mark.parametrize(
    ("returncode", "output", "kind"),
    [
        (48, "", PortTaken),
        (1, "1:M 1 Jan 2030 00:00:00.000 # bind: Address already in use", PortTaken),
        (62, "", DataVersionMismatch),
        (1, "1:M 1 Jan 2030 00:00:00.000 # Can't handle RDB format version 99", DataVersionMismatch),
        (-6, '{"s":"E","attr":{"message":{"msg":"unsupported WiredTiger file version"}}}', DataVersionMismatch),
        (1, "1:M 1 Jan 2030 00:00:00.000 # Short read or OOM loading DB.", LocalServerError),
        (-9, "", LocalServerError),
        (None, "", LocalServerError),
    ],
)  # fmt: skip
def test_each_way_to_die_has_its_own_error(returncode: int | None, output: str, kind: type[Exception]) -> None:
    assert type(diagnose("server", returncode, output, log=LOG)) is kind


def test_the_error_quotes_what_tells_something_and_names_the_log() -> None:
    output = """\
{"s":"I","msg":"Opening WiredTiger"}
{"s":"W","msg":"Access control is not enabled for the database","tags":["startupWarnings"]}
{"s":"E","msg":"Cannot open","attr":{"error":"disk full"}}
{"s":"E","msg":"Cannot open","attr":{"error":"disk full"}}
"""
    assert telling_lines(output) == ["Cannot open: disk full"]
    assert f"from {LOG}" in str(diagnose("mongod-0", 1, output, log=LOG))


def test_a_log_without_errors_is_quoted_as_it_is() -> None:
    assert telling_lines('{"s":"I","msg":"Opening"}') == ['{"s":"I","msg":"Opening"}']
