"""`smriti-scale`: servers for development, indexes, advice and more, from a terminal.

A subcommand is a row in `COMMANDS`; its module is imported only when it is the one asked for, so `--help` stays quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from smriti_scale.errors import MissingExtraError, ScaleError

if TYPE_CHECKING:
    import typer


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand.

    Attributes:
        module: where it lives; it has a function `command`, or, for a group of commands, a `typer.Typer` named `app`.
        summary: its line in `--help`.
        group: whether it is a group.
    """

    module: str
    summary: str
    group: bool = False


COMMANDS = {
    "assets": Command("smriti_scale.cli.assets", "Build static files: hashed names, coded variants, a manifest."),
    "indexes": Command(
        "smriti_scale.cli.indexes", "Plan, apply, check and lint the indexes an application declares.", group=True
    ),
    "shard": Command("smriti_scale.cli.shard", "Review, plan and apply the shard keys it declares.", group=True),
    "slo": Command("smriti_scale.cli.slo", "Objectives as Prometheus rules; how a running service stands.", group=True),
    "dev": Command("smriti_scale.cli.dev", "Run a MongoDB replica set and a Redis on this machine until Ctrl-C."),
    "tasks": Command("smriti_scale.cli.tasks", "Run workers and beat; queues and dead letters.", group=True),
    "serve": Command("smriti_scale.cli.serve", "Serve an ASGI app over HTTP/1.1 and HTTP/2."),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Errors of this library are one line on stderr and exit code 1.

    Args:
        arguments: the command line without the program's name; the process's own when None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            import typer  # noqa: F401 - looked for here so that its absence is told in a sentence
        except ImportError as error:
            raise MissingExtraError("cli", package="typer", feature="the smriti-scale command") from error
        application(words)(args=words, prog_name="smriti-scale")
    except ScaleError as error:
        print(f"smriti-scale: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def application(words: Sequence[str]) -> typer.Typer:
    """The Typer app for this command line: the subcommand asked for in full, the others as names in the help."""
    import typer

    wanted = next((word for word in words if not word.startswith("-")), None)
    app = typer.Typer(
        help="Scaling primitives for async ASGI apps on MongoDB and Redis.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.callback(invoke_without_command=True)
    def root(
        version: bool = typer.Option(False, "--version", help="Print the version and leave."),
    ) -> None:
        if version:
            from smriti_scale import __version__

            print(__version__)
            raise typer.Exit

    for name, command in COMMANDS.items():
        if name != wanted:
            app.command(name, help=command.summary)(_not_loaded)
            continue
        module = import_module(command.module)
        if command.group:
            app.add_typer(module.app, name=name, help=command.summary)
        else:
            app.command(name)(module.command)
    return app


def _not_loaded() -> None:
    """Stands in for subcommands that this command line does not ask for."""
