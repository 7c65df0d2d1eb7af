"""`cdr-sync doctor`: what could keep the job from working, and how to fix it."""

from __future__ import annotations

import os

import click

from etl.cli.app import App, pass_app
from etl.cli.options import json_option
from etl.cli.output import print_json
from etl.doctor import Finding, examine
from etl.errors import gravest

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "bright_black"}
_MARGIN = " " * 10


@click.command("doctor")
@json_option
@click.pass_context
@pass_app
def command(app: App, ctx: click.Context, *, as_json: bool) -> None:
    """Check settings, secret files, database, clock and API, and say how to fix problems.

    Run it as the user that runs the job. Nothing is stored or changed; the API gets one call per account.
    The exit code is 78 if settings or schema are wrong, 77 if the API refuses the credentials, 69 if the
    API or the database cannot be reached, 1 if another check failed, and 0 if there are only warnings.
    """
    findings = []
    for finding in examine(lambda: app.settings, app.config_path):
        findings.append(finding)
        if not as_json:
            _print(finding)
    exit_code = gravest(finding.exit_code for finding in findings)
    if as_json:
        print_json({"exit_code": exit_code, "checks": findings})
    ctx.exit(exit_code)


def _print(finding: Finding) -> None:
    """Print a line per check, and the remedy below it. Off a terminal, click leaves the colours out."""
    word = finding.result.ljust(len(_MARGIN))
    if not os.environ.get("NO_COLOR"):
        word = click.style(word, fg=_COLOURS[finding.result])
    name = f"{finding.check} {finding.account}" if finding.account else finding.check
    first, *further = finding.found.split("\n")
    click.echo(f"{word}{name}: {first}")
    for line in further:
        click.echo(f"{_MARGIN}{line}")
    if finding.remedy:
        click.echo(f"{_MARGIN}→ {finding.remedy}")
