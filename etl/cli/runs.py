"""`cdr-sync runs`: the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from etl.cli.app import App, pass_app
from etl.cli.completion import complete_runs
from etl.cli.options import json_option, limit_option
from etl.cli.output import counted, print_json, print_table, row_as_dict, shown
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
    from etl.db import runs  # noqa: PLC0415

    with ctx.ensure_object(App).reading() as connection:
        held = runs.held_claims(connection)
        documents = [run_document(row, held) for row in runs.list_runs(connection, most=most)]
    if as_json:
        print_json(documents)
    else:
        rows = [[*(run[name] for name in _LISTED), told_claims(run)] for run in documents]
        print_table(rows, (*_LISTED, "claims"))


@command.command()
@click.argument("run_id", metavar="ID", type=int, shell_complete=complete_runs)
@json_option
@pass_app
def show(app: App, run_id: int, *, as_json: bool) -> None:
    """Show everything about run ID. What became of its claims adds up to them."""
    from etl.db import runs  # noqa: PLC0415

    with app.reading() as connection:
        held = runs.held_claims(connection)
        row = runs.find_run(connection, run_id)
    if row is None:
        raise UsageError(f"There is no run {run_id}: `cdr-sync runs` lists them")
    document = run_document(row, held)
    if as_json:
        print_json(document)
        return
    print_table([(name, shown(value)) for name, value in document.items()], ("column", "value"))
    click.echo(f"\nClaims: {told_claims(document)}{_whereabouts(document)}")


def run_document(row: Row[Any], held: Mapping[int, int]) -> dict[str, Any]:
    """A run's row, with how many of its claims have no outcome, and how many of these it holds still."""
    run = row_as_dict(row)
    return {**run, "unsettled": unsettled(run) if _does_claim(run) else 0, "held": held.get(run["id"], 0)}


def _does_claim(run: Mapping[str, Any]) -> bool:
    """Whether the counts are of claims. Those of `reprocess` are of dead requests that it revived."""
    return bool(run["command"] != "reprocess")


def told_claims(run: Mapping[str, Any]) -> str:
    """What became of a run's claims, as a sum."""
    if not _does_claim(run):
        return "none, since it asks nothing"
    parts = [f"{run[name]:,} {words}" for name, words in OUTCOMES.items() if run[name]]
    if run["unsettled"]:
        words = {"running": "in hand", "abandoned": "left behind by its death"}
        parts.append(f"{run['unsettled']:,} {words.get(run['outcome'], 'of which nothing is known')}")
    return f"{run['claimed']:,} = {', '.join(parts)}" if parts else "0"


def _whereabouts(run: Mapping[str, Any]) -> str:
    """What has become of the claims that a run left behind."""
    if not run["unsettled"] or run["outcome"] == "running":
        return ""
    held = run["held"]
    if not held:
        return "; all of these were taken back"
    return f"; of these, {counted(held, 'request')} will be taken back once the lease has run out"
