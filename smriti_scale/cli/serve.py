"""`smriti-scale serve app:app`: an ASGI app over HTTP/1.1 and HTTP/2, with granian underneath."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import threading
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from smriti_scale.errors import ConfigurationError, MissingExtraError

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_FIGURES = "PROMETHEUS_MULTIPROC_DIR"


class HTTP(StrEnum):
    """The versions of HTTP that are spoken."""

    AUTO = "auto"
    ONE = "1"
    TWO = "2"


class AccessLog(StrEnum):
    """The form of the access log."""

    OFF = "off"
    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """What the server itself reports."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def command(
    target: Annotated[str, typer.Argument(metavar="MODULE:APP", help="The app, such as main:app.", show_default=False)],
    host: Annotated[str, typer.Option(envvar="HOST", help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="PORT", help="Port to listen on.", min=1, max=65_535)] = 8000,
    uds: Annotated[Path | None, typer.Option(help="Unix socket to listen on, in place of host and port.")] = None,
    workers: Annotated[
        int, typer.Option(envvar="WEB_CONCURRENCY", help="Worker processes; 0 for one per CPU allowed to us.", min=0)
    ] = 1,
    http: Annotated[
        HTTP, typer.Option(help="auto: both, by ALPN over TLS, by prior knowledge (h2c) without.")
    ] = HTTP.AUTO,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file of the certificate chain: switches TLS on.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of its private key, in PKCS#8.")] = None,
    key_password: Annotated[
        str | None, typer.Option(envvar="TLS_KEY_PASSWORD", help="The key's password; better by the environment.")
    ] = None,
    tls12: Annotated[bool, typer.Option("--tls12", help="Accept TLS 1.2 too, not 1.3 alone.")] = False,
    graceful_timeout: Annotated[
        int, typer.Option(help="Seconds that running requests get after SIGTERM or Ctrl-C.", min=1)
    ] = 30,
    drain_delay: Annotated[
        float,
        typer.Option(
            envvar="SCALE_DRAIN_DELAY",
            help="Seconds from SIGTERM, when /readyz turns false, until the server stops accepting.",
            min=0,
            max=3600,
        ),
    ] = 0.0,
    access_log: Annotated[AccessLog, typer.Option(help="Written by a thread of its own.")] = AccessLog.OFF,
    log_level: Annotated[LogLevel, typer.Option(help="What the server itself reports.")] = LogLevel.INFO,
    factory: Annotated[bool, typer.Option("--factory", help="MODULE:APP is a function that makes the app.")] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start anew when a file changes (needs watchfiles).")
    ] = False,
    max_rss: Annotated[
        int | None, typer.Option(help="Replace a worker that holds more than so many MiB.", min=64)
    ] = None,
) -> None:
    """Serve an ASGI app over HTTP/1.1 and HTTP/2 until Ctrl-C or SIGTERM; SIGHUP starts workers anew, one by one."""
    if not _TARGET.fullmatch(target):
        raise ConfigurationError(f"{target!r} is no app: write MODULE:APP, such as main:app")
    _check_tls(certificate, key)
    try:
        from granian.constants import HTTPModes, Interfaces, SSLProtocols
        from granian.errors import FatalError
        from granian.log import LogLevels
        from granian.server import Server
    except ImportError as error:
        raise MissingExtraError("serve", package="granian", feature="smriti-scale serve") from error
    with _drain_file(drain_delay) as drain_file:
        server = _draining(Server, drain_delay, drain_file)(
            target,
            address=host,
            port=port,
            uds=uds,
            interface=Interfaces.ASGI,
            workers=workers or available_cpus(),
            http=HTTPModes(http.value),
            ssl_cert=certificate,
            ssl_key=key,
            ssl_key_password=key_password,
            ssl_protocol_min=SSLProtocols.tls12 if tls12 else SSLProtocols.tls13,
            log_level=LogLevels(log_level.value),
            log_access=access_log is not AccessLog.OFF,
            log_dictconfig=_logging(access_log),
            respawn_failed_workers=True,
            workers_kill_timeout=graceful_timeout,
            workers_max_rss=max_rss,
            factory=factory,
            reload=reload,
            working_dir=Path.cwd(),
            process_name=None,
        )
        try:
            with _figures_of_all(workers or available_cpus()):
                server.serve()
        except FatalError as error:
            raise ConfigurationError(f"the server did not start: {error}") from error


@contextlib.contextmanager
def _drain_file(delay: float) -> Iterator[Path | None]:
    """The path whose existence tells the workers that the instance is about to leave; they read the variable."""
    if delay == 0:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="smriti-scale-") as folder:
        file = Path(folder) / "draining"
        os.environ["SCALE_DRAIN_FILE"] = str(file)
        yield file


def _draining(base: Any, delay: float, file: Path | None) -> Any:
    """granian's server, which keeps the first SIGTERM back while the workers tell load balancers that they leave."""
    if file is None:
        return base
    told: Path = file

    class DrainingServer(base):  # type: ignore[misc] # chosen at run time
        def signal_handler_interrupt(self, *args: Any, **kwargs: Any) -> None:
            if args and args[0] == signal.SIGTERM and not told.exists():
                told.touch()
                timer = threading.Timer(delay, super().signal_handler_interrupt)
                timer.daemon = True
                timer.start()
            else:
                super().signal_handler_interrupt(*args, **kwargs)

    return DrainingServer


@contextlib.contextmanager
def _figures_of_all(workers: int) -> Iterator[None]:
    """Where several workers put their figures, so that `/metrics` of any of them tells of all."""
    if workers == 1 or _FIGURES in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="smriti-scale-metrics-") as folder:
        os.environ[_FIGURES] = folder
        try:
            yield
        finally:
            del os.environ[_FIGURES]


def available_cpus() -> int:
    """The CPUs this process may use: its affinity, and in a container its quota, at least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cpus = min(cpus, round(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no cgroup version 2 here
    return max(cpus, 1)


def _check_tls(certificate: Path | None, key: Path | None) -> None:
    if (certificate is None) != (key is None):
        raise ConfigurationError("TLS needs both --certificate and --key")
    if certificate is None or key is None:
        return
    for path in (certificate, key):
        if not path.is_file():
            raise ConfigurationError(f"{path} is no file")
    head = key.read_text(errors="replace")
    if "PRIVATE KEY" not in head:
        raise ConfigurationError(f"{key} holds no PEM private key")
    if "BEGIN PRIVATE KEY" not in head and "BEGIN ENCRYPTED PRIVATE KEY" not in head:
        raise ConfigurationError(
            f"{key} is not in PKCS#8; make it so: openssl pkcs8 -topk8 -nocrypt -in {key} -out pkcs8.pem"
        )


def _logging(access_log: AccessLog) -> dict[str, Any]:
    """A logging configuration, filled into granian's: its own lines to stderr, the access log through our handler."""
    form = "json" if access_log is AccessLog.JSON else "text"
    return {
        "handlers": {
            "console": {"class": "logging.StreamHandler", "formatter": "generic", "stream": "ext://sys.stderr"},
            "access": {"()": "smriti_scale.cli.access_log.QueuedAccessLog", "form": form},
        },
        "loggers": {
            "_granian": {"handlers": ["console"], "level": "INFO", "propagate": False},
            "granian.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
        },
    }
