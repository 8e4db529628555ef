"""`smriti-scale tasks`: run workers and beat, look at queues, see to dead letters."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from smriti_scale.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from smriti_scale.tasks.app import ScaleCelery

app = typer.Typer(no_args_is_help=True, help="Run workers and beat, look at queues, see to dead letters.")

App = typer.Option(
    ...,
    "--app",
    "-A",
    envvar="SMRITI_TASKS_APP",
    help="Where make_celery was called: module or module:name.",
)


@app.command()
def worker(
    app: str = App,
    queues: str = typer.Option("", help="Comma-separated; all queues of the app by default."),
    concurrency: int = typer.Option(0, min=0, help="Processes; one for each core by default."),
    pool: str = typer.Option("prefork", help="prefork, threads or solo."),
    log_level: str = typer.Option("info", help="debug, info, warning or error."),
    beat: bool = typer.Option(False, "--beat", help="Run beat inside this worker as well."),
) -> None:
    """Work off tasks until SIGTERM, then finish those under way.

    A second SIGTERM gives running tasks a last while (the policy's `shutdown_grace`) and hands the rest back.
    """
    celery = load_app(app)
    arguments = ["worker", f"--loglevel={log_level}", f"--pool={pool}", "--without-gossip", "--without-mingle"]
    if queues:
        arguments.append(f"--queues={queues}")
    if concurrency:
        arguments.append(f"--concurrency={concurrency}")
    if beat:
        arguments.append("--beat")
    celery.worker_main(arguments)


def load_app(path: str) -> ScaleCelery:
    """The app at `module:name`, or the only one in `module`.

    Raises:
        ConfigurationError: there is none, or several.
        MissingExtraError: Celery is not installed.
    """
    try:
        from smriti_scale.tasks.app import ScaleCelery
    except ImportError as error:
        raise MissingExtraError("tasks", package="celery", feature="smriti-scale tasks") from error
    module_name, _, name = path.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise
        raise ConfigurationError(
            f"no module {module_name!r} from {Path.cwd()}; --app is module or module:name"
        ) from None
    if name:
        found: Any = getattr(module, name, None)
        if not isinstance(found, ScaleCelery):
            raise ConfigurationError(f"{path} is no app made by make_celery, but {type(found).__name__}")
        return found
    apps = {id(value): value for value in vars(module).values() if isinstance(value, ScaleCelery)}
    if len(apps) != 1:
        raise ConfigurationError(
            f"{module_name} holds {len(apps)} apps made by make_celery; say --app {module_name}:NAME"
        )
    return next(iter(apps.values()))
