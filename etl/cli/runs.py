"""`cdr-sync runs`: the ledger."""

from __future__ import annotations

import click

from etl.cli.app import App, pass_app
from etl.cli.completion import complete_runs
from etl.cli.options import json_option, limit_option
from etl.cli.output import print_json, print_table, row_as_dict, shown
from etl.errors import UsageError

_LISTED = (
    "id",
    "command",
    "started_at",
    "finished_at",
    "outcome",
    "claimed",
    "done",
    "put_off",
    "retried",
    "dead",
    "api_calls",
)


@click.group("runs", invoke_without_command=True)
@limit_option
@json_option
@click.pass_context
def command(ctx: click.Context, most: int, *, as_json: bool) -> None:
    """List the latest runs, or show one."""
    if ctx.invoked_subcommand is not None:
        return
    from etl.db import runs  # noqa: PLC0415

    with ctx.ensure_object(App).reading() as connection:
        rows = [row_as_dict(row) for row in runs.list_runs(connection, most=most)]
    if as_json:
        print_json(rows)
    else:
        print_table([[row[name] for name in _LISTED] for row in rows], _LISTED)


@command.command()
@click.argument("run_id", metavar="ID", type=int, shell_complete=complete_runs)
@json_option
@pass_app
def show(app: App, run_id: int, *, as_json: bool) -> None:
    """Show everything about run ID. Its outcomes add up to its claims, unless it was killed."""
    from etl.db import runs  # noqa: PLC0415

    with app.reading() as connection:
        row = runs.find_run(connection, run_id)
    if row is None:
        raise UsageError(f"There is no run {run_id}: `cdr-sync runs` lists them")
    if as_json:
        print_json(row_as_dict(row))
    else:
        print_table([(name, shown(value)) for name, value in row_as_dict(row).items()], ("column", "value"))
