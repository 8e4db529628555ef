"""`smriti-scale slo`: objectives as Prometheus rules, and how a running service stands by its `/metrics`."""

from __future__ import annotations

import importlib
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import typer

from smriti_scale.cli.database import DRIFT, DatabaseGroup
from smriti_scale.errors import ConfigurationError, MissingExtraError, ScaleError
from smriti_scale.monitoring.rules import prometheus_rules, to_yaml
from smriti_scale.monitoring.sli import FailureShare, FasterThan, GaugeBelow, Sample, Samples, Vector
from smriti_scale.monitoring.slo import DEFAULT_SLOS, SLO, duration, percent

app = typer.Typer(
    cls=DatabaseGroup, no_args_is_help=True, help="Objectives: Prometheus rules, and how a service stands."
)

Declared = typer.Option("", "--slos", help="Where the objectives are: module:NAME. The five usual ones by default.")
Out = typer.Option(None, "--out", "-o", help="The file to write; standard output by default.")
By = typer.Option(["job"], "--by", help="A label that tells services apart. May be given again.")
AsJson = typer.Option(False, "--json", help="For machines.")


@app.command()
def rules(
    slos: str = Declared,
    out: Path | None = Out,
    by: list[str] = By,
    as_json: bool = AsJson,
) -> None:
    """Write Prometheus recording and alerting rules."""
    made = prometheus_rules(load_slos(slos), by=by)
    text = orjson.dumps(made, option=orjson.OPT_INDENT_2).decode() + "\n" if as_json else to_yaml(made)
    if out is None:
        typer.echo(text, nl=False)
        return
    out.write_text(text, encoding="utf-8")
    typer.echo(f"{sum(len(group['rules']) for group in made['groups'])} rules in {out}")


@app.command()
def status(
    url: str = typer.Argument(help="The service's metrics: http://127.0.0.1:8000/metrics"),
    slos: str = Declared,
    over: float = typer.Option(0.0, min=0, help="Look twice, so many seconds apart; 0: since the service started."),
    token: str = typer.Option("", envvar="SCALE_METRICS_TOKEN", help="Bearer token, where /metrics asks for one."),
    as_json: bool = AsJson,
) -> None:
    """How the objectives stand. Exits with 0 if all with data are met, 2 if one is missed, 1 on an error."""
    objectives = load_slos(slos)
    before = _look(url, token) if over else {}
    time.sleep(over)
    now = _look(url, token)
    rows = [_judged(slo, _increase(slo, before, now)) for slo in objectives]
    if as_json:
        typer.echo(orjson.dumps(rows))
    else:
        for row in rows:
            mark = {True: "met", False: "missed", None: "no data"}[row["met"]]
            typer.echo(f"{mark:8}{row['shown']:>10}  {row['title']}")
    if any(row["met"] is False for row in rows):
        raise typer.Exit(DRIFT)


def load_slos(where: str) -> Sequence[SLO]:
    """The objectives at `module:NAME`; the default ones when nothing is named.

    Raises:
        ConfigurationError: there are none.
    """
    if not where:
        return DEFAULT_SLOS
    module_name, _, name = where.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise ConfigurationError(f"{module_name} cannot be imported: no module {error.name!r}") from error
        raise ConfigurationError(f"no module {module_name!r} from {here}; write module:SLOS") from None
    for part in (name or "SLOS").split("."):
        found = getattr(found, part, None)
    if isinstance(found, SLO):
        return (found,)
    if not isinstance(found, Sequence) or not found or not all(isinstance(one, SLO) for one in found):
        raise ConfigurationError(f"{where} is no list of SLO, but {type(found).__name__}; write module:SLOS")
    return found


def _look(url: str, token: str) -> Samples:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigurationError(f"the address of /metrics begins with http:// or https://, not {url!r}")
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as error:
        raise MissingExtraError("metrics", package="prometheus_client", feature="smriti-scale slo status") from error
    request = urllib.request.Request(url, headers={"Accept": "text/plain"})  # noqa: S310 - http(s) alone
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        error.close()
        raise ScaleError(f"{url} answers {error.code}") from None
    except (OSError, HTTPException) as error:
        raise ScaleError(f"{url} cannot be read: {getattr(error, 'reason', error)}") from None
    samples: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample)
    return samples


def _increase(slo: SLO, before: Samples, now: Samples) -> Vector | None:
    totals = slo.sli.read(now)
    earlier = None if isinstance(slo.sli, GaugeBelow) else slo.sli.read(before)
    if totals is None or earlier is None:
        return totals
    return tuple(new - old for new, old in zip(totals, earlier, strict=True))


def _judged(slo: SLO, increase: Vector | None) -> dict[str, Any]:
    value = None if increase is None else slo.sli.number(increase, slo.objective)
    met = good = None
    if increase is not None and value is not None:
        if isinstance(slo.sli, FasterThan | FailureShare):
            bad, every = slo.sli.counts(increase)
            good, met = 1 - bad / every, bad <= slo.budget * every
        else:
            met = value < slo.sli.threshold
    shown = "–" if value is None else percent(round(value, 4)) if slo.sli.unit == "ratio" else duration(round(value, 4))
    return {
        "name": slo.name,
        "title": slo.title,
        "unit": slo.sli.unit,
        "objective": slo.objective,
        "threshold": slo.threshold,
        "value": value,
        "good": good,
        "met": met,
        "shown": shown,
    }
