"""`smriti-scale slo`, as a terminal and a CI job use it."""

from __future__ import annotations

import http.server
import json
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from smriti_scale.cli import main
from smriti_scale.monitoring import Metrics

DECLARED = """
from smriti_scale.monitoring import SLO

SLOS = [SLO.errors(objective=0.999), SLO.latency("posts", under=1.0)]
ONE = SLO.memory()
NOTHING = 5
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"objectives_{secrets.token_hex(4)}"
    (tmp_path / f"{name}.py").write_text(DECLARED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        try:
            main(["slo", *words])
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1 if left.code else 0
        else:
            code = 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


class Scraped:
    """A service's `/metrics`, behind a token."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        scraped = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                allowed = self.headers.get("Authorization") == "Bearer good"
                self.send_response(200 if allowed else 401)
                self.end_headers()
                if allowed:
                    self.wfile.write(generate_latest(scraped.metrics.registry))
                    scraped.looked()

            def log_message(self, *_: Any) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/metrics"
        self.looked: Callable[[], None] = lambda: None

    def serve(self, status: str, count: int) -> None:
        for _ in range(count):
            self.metrics.http_requests["GET", "/posts", status].inc()
            self.metrics.http_duration["GET", "/posts"].observe(0.03)


@pytest.fixture
def scraped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scraped]:
    monkeypatch.setenv("SCALE_METRICS_TOKEN", "good")
    service = Scraped()
    thread = threading.Thread(target=service.server.serve_forever)
    thread.start()
    yield service
    service.server.shutdown()
    thread.join()
    service.server.server_close()


def test_rules_are_written_to_a_file_that_promtool_takes(run: Run, declared: str, tmp_path: Path) -> None:
    code, out, _ = run("rules", "--slos", declared, "--out", "rules.yml", "--by", "job", "--by", "namespace")
    assert code == 0
    assert out.endswith("rules in rules.yml\n")
    checked = subprocess.run(["promtool", "check", "rules", "rules.yml"], capture_output=True, text=True, cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    text = (tmp_path / "rules.yml").read_text()
    assert "/ 0.001" in text
    assert "sum by (job, namespace)" in text
    assert "ScalePostsBudgetBurn" in text
    assert "ScaleCpuBudgetBurn" not in text


def test_without_a_name_the_usual_five_are_written(run: Run) -> None:
    code, out, _ = run("rules", "--json")
    assert code == 0
    groups = [group["name"] for group in json.loads(out)["groups"]]
    assert groups[:5] == [f"scale_slo_{name}" for name in ("latency", "errors", "database", "memory", "cpu")]
    assert run("rules")[1].startswith("groups:\n  - name: 'scale_slo_latency'\n")


@pytest.mark.parametrize(
    ("where", "told"),
    [("absent_module", "no module"), (":NOTHING", "is no list of SLO, but int"), (":NOBODY", "but NoneType")],
)
def test_objectives_that_are_not_there_are_told_in_a_sentence(run: Run, declared: str, where: str, told: str) -> None:
    code, _, err = run("rules", "--slos", where if where[0] != ":" else declared + where)
    assert code == 1
    assert told in err
    assert "Traceback" not in err


def test_status_judges_a_running_service_and_its_exit_code_tells(run: Run, scraped: Scraped) -> None:
    scraped.serve("200", 200)
    scraped.metrics.memory_ratio.set(0.5)
    code, out, _ = run("status", scraped.url)
    assert code == 0
    assert "met        48.8 ms  95 % of requests under 200 ms" in out
    assert "no data          –  database queries under 100 ms on average" in out
    scraped.serve("500", 50)
    code, out, _ = run("status", scraped.url, "--json")
    assert code == 2
    rows = {row["name"]: row for row in json.loads(out)}
    assert (rows["errors"]["value"], rows["errors"]["good"], rows["errors"]["met"]) == (0.2, 0.8, False)
    assert (rows["memory"]["value"], rows["memory"]["met"]) == (0.5, True)


def test_status_over_some_seconds_counts_what_came_in_them(run: Run, scraped: Scraped) -> None:
    scraped.serve("500", 50)
    scraped.looked = lambda: scraped.serve("200", 10)
    code, out, _ = run("status", scraped.url, "--over", "0.01", "--json")
    assert code == 0
    assert json.loads(out)[1]["value"] == 0.0


def test_status_of_nobody_is_one_line(run: Run, scraped: Scraped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALE_METRICS_TOKEN", "bad")
    code, _, err = run("status", scraped.url)
    assert (code, err) == (1, f"smriti-scale: {scraped.url} answers 401\n")
    code, _, err = run("status", "http://127.0.0.1:9/metrics")
    assert code == 1
    assert "cannot be read" in err
    assert run("status", "file:///etc/passwd")[0] == 1
