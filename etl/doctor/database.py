"""The database: whether it can be reached, its clock, its schema, and who shares it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from etl.db import SCHEMA_REVISION
from etl.db.accounts import read_account
from etl.db.dialects import database_now
from etl.db.engine import (
    open_engine,
    reading,
    require_current_schema,
    require_supported_server,
    server_of,
    shown_url,
    sqlite_dangers,
    sqlite_path,
)
from etl.db.errors import user_error
from etl.doctor.findings import Finding, failed, skipped
from etl.errors import CdrSyncError, SchemaError
from etl.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_MOST_SKEW = timedelta(seconds=5)


def check_database(settings: Settings) -> tuple[list[Finding], dict[str, str]]:
    """Look at the database step by step; where a step fails, those after it are skipped.

    Returns:
        The findings; and by account the request that is known to be good, of those that have one.
    """
    checks = ["database", "clock", "schema"]
    findings: list[Finding] = []
    canaries: dict[str, str] = {}
    try:
        path = sqlite_path(settings.database_url)
        if path is not None:
            checks.append("SQLite file")
        with _opened(settings.database_url) as engine:
            with reading(engine) as connection:
                findings.append(_check_server(connection, settings.database_url))
                findings.append(_check_clock(connection))
                require_current_schema(connection)
                canaries = _read_canaries(connection, settings)
                findings.append(
                    Finding(check="schema", result="ok", found=f"at {SCHEMA_REVISION}, as needed")
                )
            if path is not None:
                findings.append(_check_sqlite_file(engine, path))
    except Exception as error:  # noqa: BLE001 (told, or raised again)
        failing = checks[len(findings)]
        findings.append(_failure(failing, error))
        findings += [skipped(check, failing) for check in checks[len(findings) :]]
    return findings, canaries


@contextmanager
def _opened(url: str) -> Iterator[Engine]:
    engine = open_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _failure(check: str, error: Exception) -> Finding:
    """What an error means for the step in which it came; one that is a fault of this program is raised."""
    match error:
        case SchemaError():  # its last words say what to do
            found, _, remedy = str(error).rpartition(": ")
            return Finding(
                check=check, result="failed", found=found, remedy=remedy, exit_code=error.exit_code
            )
        case CdrSyncError():
            remedy = "set database_url (CDR_SYNC_DATABASE_URL) to a database that can be used"
            return failed(check, error, remedy=remedy)
    unreachable = user_error(error)
    if unreachable is None:
        raise error
    remedy = (
        "see that it runs and can be reached from here, and that database_url (CDR_SYNC_DATABASE_URL) has its"
        " host, port and name and the right user and password"
    )
    return failed(check, unreachable, remedy=remedy)


def _check_server(connection: Connection, url: str) -> Finding:
    require_supported_server(connection)
    name, version = server_of(connection)
    dotted = ".".join(str(part) for part in version)
    return Finding(check="database", result="ok", found=f"{name} {dotted} at {shown_url(url)}")


def _check_clock(connection: Connection) -> Finding:
    """How far this machine's clock is off; what the question itself took is not counted against it."""
    before = datetime.now(UTC)  # noqa: TID251 (held against the database's, and decides nothing)
    theirs = database_now(connection)
    after = datetime.now(UTC)  # noqa: TID251 (likewise)
    ahead, behind = before - theirs, theirs - after
    skew = max(ahead, behind, timedelta(0))
    if skew <= _MOST_SKEW:
        found = f"this machine's and the database's are {skew.total_seconds():.1f} s apart"
        return Finding(check="clock", result="ok", found=found)
    where = "ahead of" if ahead > behind else "behind"
    return Finding(
        check="clock",
        result="warning",
        found=f"this machine's clock is {skew.total_seconds():.0f} s {where} the database's; it decides"
        " nothing, since every instant that counts is the database's",
        remedy="let both machines keep time by NTP, so that log lines and cron agree with the tables",
    )


def _read_canaries(connection: Connection, settings: Settings) -> dict[str, str]:
    known = {name: read_account(connection, name).canary_request_id for name in settings.accounts}
    return {name: request_id for name, request_id in known.items() if request_id is not None}


def _check_sqlite_file(engine: Engine, path: Path) -> Finding:
    dangers = sqlite_dangers(engine, path)
    if not dangers:
        found = "neither a network file system nor a second machine is known of"
        return Finding(check="SQLite file", result="ok", found=found)
    return Finding(
        check="SQLite file",
        result="warning",
        found="\n".join(dangers),
        remedy="a database server such as PostgreSQL or MariaDB can be shared",
    )
