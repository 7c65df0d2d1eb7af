"""The command line: options in, text or JSON out, an exit code at the end.

A command's module is imported when the command is called, so `--help` and an idle run start fast.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from etl import __version__
from etl.cli.completion import complete_files
from etl.errors import CdrSyncError, ExitCode

if TYPE_CHECKING:
    from etl.cli.app import App

# Every command with its summary. The module etl.cli.NAME holds it as `command`.
SUMMARIES = {
    "demo": "Show the whole job against a simulated API, with nothing configured.",
    "db": "Create the tables, bring them up to date, and check them.",
    "enqueue": "Add request IDs to the queue.",
    "sync": "Ask the API for every request that is due, and store its legs.",
    "backfill": "Fetch many known requests again, after live requests.",
    "fetch": "Ask the API once for one request, and print its answer.",
    "status": "Show the state of the queue, the last runs and the accounts.",
    "runs": "List the latest runs, or show one.",
    "requests": "Inspect single requests, retry or cancel them.",
    "doctor": "Check settings, database and API, and report problems with their fixes.",
    "reprocess": "Derive legs again from the archived answers, without API calls.",
    "export": "Write legs or calls as CSV or Parquet.",
    "report": "Report on the calls of a period: an HTML page with charts, or bars in the terminal.",
    "metadata": "Print the metadata for Datasette, which shows the database in a browser.",
    "simulator": "Run a simulated API on this machine.",
}

# The disk is full or broken. Where an output file is written, its own message names the file.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _LazyGroup(click.Group):
    """A group that imports a command's module only when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in SUMMARIES:
            return None
        command: click.Command = importlib.import_module(f"etl.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            # By default click suggests only commands that are already imported.
            raise click.exceptions.NoSuchCommand(
                error.command_name, possibilities=SUMMARIES, ctx=ctx
            ) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Offer the commands without importing them, then the options."""
        commands = [
            CompletionItem(name, help=summary)
            for name, summary in SUMMARIES.items()
            if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


@click.group(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option("--config", metavar="FILE", shell_complete=complete_files, help="TOML file with the settings.")
@click.option("--database-url", metavar="URL", help="Database, such as sqlite:////var/lib/cdr.sqlite3.")
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]), help="Format of log lines.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
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
    """Complete call detail records (CDRs) of PIOPIY: request IDs in, one SQL row per leg out.

    To try it with nothing configured: cdr-sync demo
    """
    from etl.cli.app import App  # noqa: PLC0415 (--help needs none)

    options = {"config": config, "database_url": database_url, "log_format": log_format}
    ctx.obj.app = app = App(options, is_verbose=verbose)
    ctx.obj = app
    ctx.call_on_close(app.close)


@dataclass(slots=True)
class _Call:
    """One call of the command line. `--help` and wrong usage end without an App."""

    app: App | None = None


def main() -> None:
    """Run the command line; report a failure and exit with its code."""
    _reopen_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # on a terminal that lacks a character, show the others
    call = _Call()
    try:
        code = cli.main(standalone_mode=False, obj=call)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (every failure is reported below)
        code = exit_code_of(error)
        _report(error, call.app)
    _drop_unwritable_output()
    sys.exit(code if isinstance(code, int) else ExitCode.OK)


def _reopen_closed_streams() -> None:
    """Reopen closed standard streams on /dev/null.

    Otherwise the next file that is opened takes the free descriptor, and output is written into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Stays open until the process ends.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _drop_unwritable_output() -> None:
    """Send output that cannot be written to /dev/null; otherwise Python exits with 120 on flushing it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):  # ValueError: the stream is closed
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def at_its_end(report: Callable[[int], None]) -> Iterator[None]:
    """Call `report` with the exit code when the block ends, however it ends.

    A signal during `report` ends it, and changes nothing else.
    """
    exit_code: int = ExitCode.OK
    try:
        yield
    except BaseException as error:
        exit_code = exit_code_of(error)
        raise
    finally:
        with suppress(KeyboardInterrupt, SystemExit):
            report(exit_code)


def exit_code_of(error: BaseException) -> int:
    """The exit code of a command that ends with this error."""
    match error:
        case click.exceptions.Exit() | click.ClickException():
            return error.exit_code
        case click.Abort() | KeyboardInterrupt():
            return 128 + signal.SIGINT
        case SystemExit(code=int(code)):
            return code
    known = _as_failure(error)
    return ExitCode.FAILED if known is None else known.exit_code


def _report(error: BaseException, app: App | None) -> None:
    """Print why a command failed. Usage errors are click's; all others are printed by the App."""
    match error:
        case click.exceptions.Exit() | click.Abort() | KeyboardInterrupt():
            return
        case click.NoSuchOption(option_name=name) if any(name in option.opts for option in cli.params):
            click.UsageError(f"The option {name!r} must come before the command.", error.ctx).show()
            return
        case click.ClickException():
            error.show()
            return
        case BrokenPipeError():
            sys.stderr.close()  # the reader of the output is gone
            return
    if app is None:
        from etl.cli.app import App  # noqa: PLC0415 (--help needs none)

        app = App({}, is_verbose=False)
    app.report_failure(_as_failure(error) or error)


def _as_failure(error: BaseException) -> CdrSyncError | None:
    """The error as a failure to report; None for a bug in this program."""
    if isinstance(error, CdrSyncError):
        return error
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return CdrSyncError(f"The output cannot be written: {error.strerror}")
    if "sqlalchemy" not in sys.modules:
        return None
    from etl.db.errors import user_error  # noqa: PLC0415 (loaded already, or not needed)

    failure = user_error(error)
    if failure is not None and not failure.remedy:
        failure.remedy = "Run `cdr-sync doctor` to find the cause"
    return failure
