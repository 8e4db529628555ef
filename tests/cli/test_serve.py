"""`smriti-scale serve`, started as a user starts it and asked by curl."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smriti_scale.cli import main
from smriti_scale.cli.access_log import QueuedAccessLog
from smriti_scale.cli.serve import available_cpus

pytestmark = pytest.mark.long

APP = """
import asyncio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from smriti_scale.compression import setup_compression

async def home(request):
    return PlainTextResponse("hello " * 500)

async def slow(request):
    await asyncio.sleep(1)
    return PlainTextResponse("finished")

app = Starlette(routes=[Route("/", home), Route("/slow", slow)])
setup_compression(app, minimum_size=1000)
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(folder: Path, *options: str, app: str = APP) -> Iterator[tuple[subprocess.Popen[str], int]]:
    (folder / "served_app.py").write_text(app)
    port = _free_port()
    command = [sys.executable, "-c", "from smriti_scale.cli import main; main()", "serve", "served_app:app"]
    process = subprocess.Popen(
        [*command, "--port", str(port), *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield process, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the workers too: they hold the pipes
        process.communicate(timeout=60)


def curl(*options: str) -> str:
    ran = subprocess.run(["curl", "--silent", "--show-error", *options], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


_FACTS = "%{http_version} %{http_code} %{size_download}"


def test_http2_and_http1_are_spoken_on_one_port_and_running_requests_end(tmp_path: Path) -> None:
    with served(tmp_path, "--access-log", "json") as (process, port):
        url = f"http://127.0.0.1:{port}"
        facts = ["--compressed", "--output", os.devnull, "--write-out", _FACTS]
        two = curl("--http2-prior-knowledge", *facts, f"{url}/").split()
        one = curl("--http1.1", *facts, f"{url}/").split()
        assert (two[:2], one[:2]) == (["2", "200"], ["1.1", "200"])
        assert int(two[2]) < 100, "3,000 bytes, coded"
        running = subprocess.Popen(["curl", "--silent", f"{url}/slow"], stdout=subprocess.PIPE, text=True)
        time.sleep(0.4)
        process.send_signal(signal.SIGTERM)
        assert running.communicate(timeout=60)[0] == "finished"
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
    requests = [json.loads(line) for line in output.splitlines()]
    assert [request["protocol"] for request in requests[:2]] == ["HTTP/2", "HTTP/1.1"]
    assert requests[-1]["path"] == "/slow"
    assert requests[-1]["status"] == 200


MONITORED = """
import os
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from smriti_scale.monitoring import setup_monitoring

async def who(request):
    return PlainTextResponse(str(os.getpid()))

app = Starlette(routes=[Route("/", who)])
setup_monitoring(app)
"""


def test_any_of_several_workers_shows_the_figures_of_all(tmp_path: Path) -> None:
    with served(tmp_path, "--workers", "2", app=MONITORED) as (_, port):
        url = f"http://127.0.0.1:{port}"
        asked, answered = 0, set[str]()
        while len(answered) < 2:
            answered.add(curl(f"{url}/"))
            asked += 1
            assert asked < 1000
        for _ in range(3):
            counted = [line for line in curl(f"{url}/metrics").splitlines() if "requests_total{" in line]
            assert counted == [f'scale_http_requests_total{{method="GET",route="/",status="200"}} {asked}.0']


def test_over_tls_curl_negotiates_http2(tmp_path: Path) -> None:
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*made, "-keyout", "key.pem", "-out", "cert.pem"], cwd=tmp_path, check=True, capture_output=True)
    with served(tmp_path, "--certificate", "cert.pem", "--key", "key.pem") as (_, port):
        trusted = ["--cacert", str(tmp_path / "cert.pem"), "--output", os.devnull, "--write-out", _FACTS]
        url = f"https://localhost:{port}/"
        assert curl("--http2", "--compressed", *trusted, url).split()[:2] == ["2", "200"]
        assert curl("--http1.1", *trusted, url).split() == ["1.1", "200", "3000"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["app.py"], "MODULE:APP"),
        (["main:app", "--certificate", "x.pem"], "both --certificate and --key"),
        (["main:app", "--certificate", "absent.pem", "--key", "absent.pem"], "is no file"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_sentence(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["serve", *arguments])
    assert left.value.code == 1
    assert told in capsys.readouterr().err


def test_a_key_in_the_old_form_is_told_with_the_command_that_converts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN RSA PRIVATE KEY-----\n")
    with pytest.raises(SystemExit):
        main(["serve", "main:app", "--certificate", str(key), "--key", str(key)])
    assert "openssl pkcs8" in capsys.readouterr().err


_REQUEST = {
    "time": "2026-01-01 00:00:00 +0000",
    "addr": "127.0.0.1",
    "method": "GET",
    "path": "/",
    "protocol": "HTTP/2",
    "status": 200,
    "dt_ms": 1.25,
}


def _logged(form: str, path: str) -> str:
    stream = io.StringIO()
    handler = QueuedAccessLog("json" if form == "json" else "text", stream=stream)
    handler.emit(logging.LogRecord("access", logging.INFO, "", 0, "%(path)s", ({**_REQUEST, "path": path},), None))
    handler.close()
    return stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_client_cannot_forge_lines_of_the_access_log(form: str) -> None:
    line = _logged(form, '/a\n2026-01-01 "GET /forged\x1b[31m')
    assert line.count("\n") == 1
    assert "\x1b" not in line
    if form == "json":
        assert json.loads(line)["path"].endswith("/forged\x1b[31m")


def test_the_access_log_waits_for_no_reader() -> None:
    released = threading.Event()

    class Stuck(io.StringIO):
        def write(self, text: str, /) -> int:
            released.wait(60)
            return super().write(text)

    stream = Stuck()
    handler = QueuedAccessLog(stream=stream)
    record = logging.LogRecord("access", logging.INFO, "", 0, "", (_REQUEST,), None)
    for _ in range(60_000):
        handler.emit(record)
    assert handler._queue.qsize() <= 50_000
    released.set()
    deadline = time.monotonic() + 60
    while "requests not written" not in stream.getvalue():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    handler.close()


def test_there_is_always_a_cpu() -> None:
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)
