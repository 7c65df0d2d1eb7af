"""Builders and checks that tests of the commands share."""

from __future__ import annotations

import click
import pytest

from etl.cli.main import cli

STATES = ("pending", "running", "done", "empty", "dead", "cancelled")
OUTCOMES = ("done", "without_legs", "put_off", "retried", "released", "dead", "lost_leases")
CRASHED = "bug in cdr-sync"
GOOD = b'{"code": 200, "count": 0, "cdr": []}'
MALFORMED = b'{"code": 200, "count": 1, "cdr": [5]}'
DOWN = b'{"code": 500, "msg": "Internal server error"}'
REFUSED = b'{"code": 404, "msg": "Invalid app id or secret"}'


def mistake(result):
    """Return the one line that reports a user's mistake; fail if there are more."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    reported = [line for line in lines if not line.startswith(("Usage: ", "Try '"))]
    assert "Traceback" not in result.output
    assert CRASHED not in result.output
    assert result.stdout == ""
    assert len(reported) == 1, result.stderr
    assert reported[0].startswith(("cdr-sync: ", "Error: "))
    return reported[0]


def adds_up(document):
    return document["claimed"] == sum(document[name] for name in OUTCOMES)


def everything_in(operator):
    tables = ("cdr_requests", "call_legs", "cdr_responses", "sync_runs", "api_accounts")
    return {table: operator.rows(f"SELECT * FROM {table}") for table in tables}  # noqa: S608 (our own words)


def write_accounts(operator, *names):
    """Configure accounts whose app IDs are 1, 2, …, in a TOML file."""
    tables = [
        f'[accounts.{name}]\napp_id = {number}\nsecret_env = "SECRET_OF_{name.upper()}"\n'
        for number, name in enumerate(names, start=1)
    ]
    folder = operator.home / "config" / "cdr-sync"
    folder.mkdir(parents=True)
    (folder / "cdr-sync.toml").write_text("tries = 1\n" + "\n".join(tables))
    operator.environment |= {f"SECRET_OF_{name.upper()}": f"secret of {name}" for name in names}
    del operator.environment["PIOPIY_APP_ID"], operator.environment["PIOPIY_SECRET"]


def registered(command=cli, path=()):
    """Yield every command with the words by which it is called."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from registered(command.get_command(context, name), (*path, name))


ALL = list(registered())
PATHS = [pytest.param(path, id=" ".join(path) or "cdr-sync") for path, _ in ALL]
COMMANDS = [pytest.param(command, id=" ".join(path) or "cdr-sync") for path, command in ALL]
