"""The command line: options in, text or JSON out, an exit code at the end.

Each command is imported when it is called, so `--help` and an idle run stay quick.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from etl import __version__
from etl.cli.completion import complete_files
from etl.errors import CdrSyncError

if TYPE_CHECKING:
    from etl.cli.app import App


SUMMARIES = {
    "demo": "Show the whole job with nothing configured, against a simulated API.",
    "db": "Create the tables, bring them up to date, and check them.",
    "enqueue": "Add request IDs to the queue.",
    "sync": "Ask the API for every request that is due, and store its legs.",
    "backfill": "Ask again for many known requests, behind the live ones.",
    "fetch": "Ask the API once for one request, and print its answer.",
    "status": "Tell how the queue stands.",
    "runs": "List the latest runs, or show one.",
    "requests": "Look into single requests, replay or cancel them.",
    "doctor": "Check settings, database and API, and say how to mend what is amiss.",
    "reprocess": "Derive legs again from the archived answers, asking nothing.",
    "export": "Write legs or calls as CSV or Parquet.",
    "report": "Report on the calls of a period: a page with plots, or bars in the terminal.",
    "metadata": "Describe the database for Datasette, which shows it in a browser.",
    "simulator": "Run a stand-in of the API on this machine.",
}


@contextmanager
def at_its_end(tell: Callable[[int], None]) -> Iterator[None]:
    """Call `tell` when a block is over, however it ends, with the exit code that its end means.

    A signal that comes meanwhile ends the telling, and changes nothing else.
    """
    exit_code = 0
    try:
        yield
    except BaseException as error:
        exit_code = exit_code_of(error)
        raise
    finally:
        with suppress(KeyboardInterrupt, SystemExit):
            tell(exit_code)


# Every command with the module that holds it.
_COMMANDS = {
    "demo": "demo",
    "db": "db",
    "enqueue": "enqueue",
    "sync": "sync",
    "backfill": "backfill",
    "fetch": "fetch",
    "status": "status",
    "runs": "runs",
    "requests": "requests",
    "doctor": "doctor",
    "reprocess": "reprocess",
    "export": "export",
    "report": "report",
    "metadata": "metadata",
    "simulator": "simulator",
}


# What says that a disk is full or broken. What is not written to the output tells of it in its own place.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _LazyGroup(click.Group):
    """A group that imports a command's module only when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"etl.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            # Click looks for alike ones among those that it has loaded.
            raise click.exceptions.NoSuchCommand(
                error.command_name, possibilities=_COMMANDS, ctx=ctx
            ) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002

        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES[name]) for name in _COMMANDS])


@click.group(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option("--config", metavar="FILE", shell_complete=complete_files, help="TOML file with the settings.")
@click.option("--database-url", metavar="URL", help="Database, such as sqlite:////var/lib/cdr.sqlite3.")
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]), help="How log lines look.")
@click.option("-v", "--verbose", is_flag=True, help="Tell more while working.")
@click.version_option(__version__, prog_name="cdr-sync")
@click.pass_context
def cli(
    ctx: click.Context,
    *,
    config: str | None,
    database_url: str | None,
    log_format: str | None,
    verbose: bool,
) -> None:
    """Complete call detail records (CDRs) of PIOPIY: request IDs in, one SQL row a leg out.

    A first look, with nothing configured: cdr-sync demo
    """
    from etl.cli.app import App  # noqa: PLC0415

    options = {"config": config, "database_url": database_url, "log_format": log_format}
    ctx.obj.app = app = App(options, is_verbose=verbose)
    ctx.obj = app
    ctx.call_on_close(app.close)


@dataclass(slots=True)
class _Call:
    """One call of the command line; `--help` and wrong usage come to their end without an App."""

    app: App | None = None


def main() -> None:
    """Run the command line, and tell every failure in one line with its exit code."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows the rest
    call = _Call()
    try:
        code = cli.main(standalone_mode=False, obj=call)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (told in one line)
        code = exit_code_of(error)
        _tell(error, call.app)
    sys.exit(code if isinstance(code, int) else 0)


def _open_closed_streams() -> None:
    """Put nothing in the place of what whoever started us has closed.

    Or else the next file to be opened would take that place, and be written to as if it were the output.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 (to the end)


def exit_code_of(error: BaseException) -> int:
    """The exit code of a command that ends by this error."""
    match error:
        case click.exceptions.Exit() | click.ClickException():
            return error.exit_code
        case click.Abort() | KeyboardInterrupt():
            return 130
        case SystemExit(code=int(code)):
            return code
    known = _known(error)
    return 1 if known is None else known.exit_code


def _tell(error: BaseException, app: App | None) -> None:
    """Write a failure for a person. A traceback is only for faults of this program, and holds no values."""
    match error:
        case click.exceptions.Exit() | click.Abort() | KeyboardInterrupt():
            return
        case click.NoSuchOption(option_name=name) if any(name in option.opts for option in cli.params):
            click.UsageError(f"The option {name!r} comes before the command.", error.ctx).show()
            return
        case click.ClickException():
            error.show()
            return
        case BrokenPipeError():
            sys.stderr.close()  # whoever read our output is gone; there is nobody to tell
            return
    if app is None:
        from etl.cli.app import App  # noqa: PLC0415

        app = App({}, is_verbose=False)
    app.tell_failure(error, _known(error))


def _known(error: BaseException) -> CdrSyncError | None:
    if isinstance(error, CdrSyncError):
        return error
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return CdrSyncError(f"The output cannot be written: {error.strerror}")
    if "sqlalchemy" not in sys.modules:
        return None
    from etl.db.errors import user_error  # noqa: PLC0415

    known = user_error(error)
    return type(known)(f"{known} (`cdr-sync doctor` looks into it)") if known else None
