"""`cdr-sync runs`: the ledger of runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from etl.cli.app import App, pass_app
from etl.cli.completion import complete_runs
from etl.cli.options import json_option, limit_option
from etl.cli.output import counted, format_value, print_json, print_table, row_as_dict
from etl.db import runs
from etl.errors import UsageError
from etl.sync.summary import OUTCOMES, unsettled

if TYPE_CHECKING:
    from sqlalchemy import Row

_LISTED = ("id", "command", "started_at", "finished_at", "outcome", "api_calls")


@click.group("runs", invoke_without_command=True)
@limit_option
@json_option
@click.pass_context
def command(ctx: click.Context, most: int, *, as_json: bool) -> None:
    """List the latest runs, or show one."""
    if ctx.invoked_subcommand is not None:
        return

    with ctx.ensure_object(App).reading() as connection:
        held = runs.held_claims(connection)
        documents = [run_document(row, held) for row in runs.list_runs(connection, most=most)]
    if as_json:
        print_json(documents)
    else:
        rows = [[*(run[name] for name in _LISTED), format_claims(run)] for run in documents]
        print_table(rows, (*_LISTED, "claims"))


@command.command()
@click.argument("run_id", metavar="ID", type=int, shell_complete=complete_runs)
@json_option
@pass_app
def show(app: App, run_id: int, *, as_json: bool) -> None:
    """Show everything about run ID. The outcomes of its claims add up to the claims."""
    with app.reading() as connection:
        held = runs.held_claims(connection)
        row = runs.find_run(connection, run_id)
    if row is None:
        raise UsageError(f"There is no run {run_id}", remedy="`cdr-sync runs` lists the runs")
    document = run_document(row, held)
    if as_json:
        print_json(document)
        return
    print_table([(name, format_value(value)) for name, value in document.items()], ("column", "value"))
    click.echo(f"\nClaims: {format_claims(document)}{_unsettled_claims(document)}")


def run_document(row: Row[Any], held: Mapping[int, int]) -> dict[str, Any]:
    """A run's row, with its claims without an outcome, and how many of these it still holds."""
    run = row_as_dict(row)
    return {**run, "unsettled": unsettled(run) if _does_claim(run) else 0, "held": held.get(run["id"], 0)}


def _does_claim(run: Mapping[str, Any]) -> bool:
    """Whether the counts are claims. Those of `reprocess` are dead requests that it revived."""
    return bool(run["command"] != "reprocess")


def format_claims(run: Mapping[str, Any]) -> str:
    """The outcomes of a run's claims, as a sum."""
    if not _does_claim(run):
        return "none: it makes no API calls"
    parts = [f"{run[name]:,} {words}" for name, words in OUTCOMES.items() if run[name]]
    if run["unsettled"]:
        words = {"running": "in progress", "abandoned": "unfinished when it was killed"}
        parts.append(f"{run['unsettled']:,} {words.get(run['outcome'], 'unaccounted for')}")
    return f"{run['claimed']:,} = {', '.join(parts)}" if parts else "0"


def _unsettled_claims(run: Mapping[str, Any]) -> str:
    """What happened to the claims that a run left unfinished."""
    if not run["unsettled"] or run["outcome"] == "running":
        return ""
    held = run["held"]
    if not held:
        return "; all of these have been reclaimed"
    return f"; of these, {counted(held, 'request')} will be reclaimed when the lease expires"
