"""Diagnoses what could keep the job from working: one check after the other, each with its remedy.

Nothing is stored or changed, neither on this machine nor in the database. The API gets one call per account.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from etl.cdr.answers import read_answer
from etl.cdr.breaker import Verdict, judge_canary
from etl.cdr.parsing import parse_legs
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
from etl.errors import (
    ApiUnavailableError,
    CdrSyncError,
    CredentialsRefusedError,
    ExitCode,
    FailedCheckError,
    NotFoundError,
    RateLimitedError,
    RejectedError,
    RequestError,
    SettingsError,
)
from etl.piopiy.client import Credentials, api_of
from etl.redaction import hide_secret_in_bytes
from etl.settings import Account, Settings, eclipsed_variables, expanded, unknown_variables, url_files

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

UNKNOWN_REQUEST_ID = "cdr-sync-doctor"  # PIOPIY's IDs have no dash
_AFTER_CONFIGURATION = ("accounts", "secret files", "metrics file", "database", "clock", "schema", "api")
_HOLDS_PASSWORD = re.compile(r"://[^/@:]*:.+@|password=")
_MOST_SKEW = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check and its result. A check that runs once per account names the account."""

    check: str
    account: str | None = None
    result: Literal["ok", "warning", "failed", "skipped"] = "ok"
    found: str
    remedy: str | None = None
    exit_code: int = ExitCode.OK


def examine(read_settings: Callable[[], Settings], config: Path) -> Iterator[Finding]:
    """Run all checks and yield each finding as soon as there is one.

    A check comes after those that it depends on.

    Args:
        read_settings: returns the settings, or raises a SettingsError that names everything wrong with them.
        config: the TOML file, whether or not it exists.
    """
    try:
        settings = read_settings()
    except SettingsError as error:
        remedy = "Correct the settings named above; README.md describes each one under Settings"
        yield _failed("configuration", error, remedy=remedy)
        yield from (_skipped(check, "configuration") for check in _AFTER_CONFIGURATION)
        return
    yield check_settings(settings, config)
    yield _check_accounts(settings)
    yield _check_secret_files(settings, config)
    yield check_metrics_file(settings.metrics_file)
    findings, canaries = _check_database(settings)
    yield from findings
    if not settings.accounts:
        yield _skipped("api", "accounts")
    for account in settings.accounts.values():
        yield replace(_check_api(settings, account, canaries.get(account.name)), account=account.name)


def _failed(check: str, error: CdrSyncError, *, remedy: str = "") -> Finding:
    """A check that ended with an error; `remedy` is for errors that bring none."""
    remedy = error.remedy or remedy
    return Finding(check=check, result="failed", found=error.reason, remedy=remedy, exit_code=error.exit_code)


def _skipped(check: str, because_of: str) -> Finding:
    """A check that makes no sense because another one failed."""
    found = f"not checked, because the check of {because_of} failed"
    return Finding(check=check, result="skipped", found=found)


# Settings, accounts and files


def check_settings(settings: Settings, config: Path) -> Finding:
    """Look for valid settings that contradict each other, or that nothing reads."""
    place = f"{config}, and the environment" if config.is_file() else f"the environment; there is no {config}"
    problems = dict(_contradictions(settings))
    if not problems:
        return Finding(check="configuration", found=f"read from {place}")
    remedies = "; ".join(dict.fromkeys(problems.values()))
    return Finding(check="configuration", result="warning", found="\n".join(problems), remedy=remedies)


def _contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """Problems, each with its remedy."""
    # A claim may wait for the one before it in the same thread, so each has half of the lease.
    seconds = (2 * settings.tries * settings.request_timeout).total_seconds()
    if settings.lease.total_seconds() < seconds:
        yield (
            f"lease is too short for {settings.tries} tries of calls that time out",
            f"Set lease (CDR_SYNC_LEASE) to {seconds:g}s or more, or reduce tries or request_timeout",
        )
    api = urlsplit(settings.api_url)
    if api.scheme == "http" and not _is_this_machine(api.hostname or ""):
        yield (
            f"the secret goes to {api.hostname} as plain text, because api_url begins with http://",
            "Set api_url (CDR_SYNC_API_URL) to a URL that begins with https://",
        )
    for problem in unknown_variables(settings.accounts.values()):
        yield problem, "Unset or rename the variables that are not settings"
    for problem in eclipsed_variables():
        yield problem, "Unset one of the two variables"


def _is_this_machine(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _check_accounts(settings: Settings) -> Finding:
    if settings.accounts:
        return Finding(check="accounts", found=", ".join(settings.accounts))
    remedy = "Set PIOPIY_APP_ID, and PIOPIY_SECRET or PIOPIY_SECRET_FILE"
    return _failed("accounts", SettingsError("there are no credentials", remedy=remedy))


def _check_secret_files(settings: Settings, config: Path) -> Finding:
    """Whether users other than the owner can read a file that holds a secret."""
    files = list(dict.fromkeys(_secret_files(settings, config)))
    modes = {file: stat.S_IMODE(file.stat().st_mode) for file in files}
    others = stat.S_IRGRP | stat.S_IROTH
    is_open = {file: mode for file, mode in modes.items() if mode & others}
    if not is_open or os.name != "posix":  # elsewhere a mode does not say who may read a file
        return Finding(check="secret files", found=", ".join(map(str, files)) or "there are none")
    shown = ", ".join(f"{file} (mode {mode:04o})" for file, mode in is_open.items())
    return Finding(
        check="secret files",
        result="warning",
        found=f"users other than the owner can read {shown}",
        remedy=f"chmod go-rwx {shlex.join(map(str, is_open))}",
    )


def _secret_files(settings: Settings, config: Path) -> Iterator[Path]:
    yield from (account.secret_file for account in settings.accounts.values() if account.secret_file)
    # Where a stronger setting replaces it, the file may be gone.
    yield from (file for file in url_files() if file.is_file())
    urls = (settings.database_url, settings.proxy)
    secrets = [settings.ping_url, *(url for url in urls if _HOLDS_PASSWORD.search(url))]
    if config.is_file() and any(secret and secret in config.read_text("utf-8") for secret in secrets):
        yield config


def check_metrics_file(name: str, *, may_access: Callable[[Path, int], bool] = os.access) -> Finding:
    """Whether a run of this user could replace the metrics file; an empty name means that there is none."""
    if not name:
        return Finding(check="metrics file", found="none is configured")
    file = expanded(name)
    folder = file.parent
    if file.is_dir():
        found, remedy = f"{file} is a folder", "Set metrics_file (CDR_SYNC_METRICS_FILE) to a file in it"
    elif not folder.is_dir():
        found, remedy = f"there is no folder {folder}", f"mkdir {shlex.quote(str(folder))}"
    elif not may_access(folder, os.W_OK | os.X_OK):
        found = f"this user cannot write to {folder}"
        remedy = "Give that right to the user that runs `cdr-sync sync`, or set another metrics_file"
    else:
        return Finding(check="metrics file", found=f"this user can write to {folder}")
    return _failed("metrics file", FailedCheckError(found, remedy=remedy))


# Database


def _check_database(settings: Settings) -> tuple[list[Finding], Mapping[str, str | None]]:
    """Check the database step by step; after a step that fails, the rest are skipped.

    Returns:
        The findings, and for each account its latest request that is known to be good.
    """
    checks = ["database", "clock", "schema"]
    findings: list[Finding] = []
    canaries: dict[str, str | None] = {}
    try:
        path = sqlite_path(settings.database_url)
        if path is not None:
            checks.append("SQLite file")
        with ExitStack() as at_end:
            engine = open_engine(settings.database_url)
            at_end.callback(engine.dispose)
            with reading(engine) as connection:
                findings.append(_check_server(connection, settings.database_url))
                findings.append(_check_clock(connection))
                require_current_schema(connection)
                canaries = {
                    name: read_account(connection, name).canary_request_id for name in settings.accounts
                }
                findings.append(Finding(check="schema", found=f"at {SCHEMA_REVISION}, as needed"))
            if path is not None:
                findings.append(_check_sqlite_file(engine, path))
    except Exception as error:  # noqa: BLE001 (reported, or raised again)
        failing = checks[len(findings)]
        findings.append(_database_failure(failing, error))
        findings += [_skipped(check, failing) for check in checks[len(findings) :]]
    return findings, canaries


def _database_failure(check: str, error: Exception) -> Finding:
    """What an error means for the step that raised it; a fault of this program is raised again."""
    setting = "database_url (CDR_SYNC_DATABASE_URL)"
    if isinstance(error, SettingsError) and error.remedy:
        error = SettingsError(error.reason, remedy=f"{error.remedy}. The setting is {setting}")
    if isinstance(error, CdrSyncError):
        return _failed(check, error, remedy=f"Set {setting} to a database that cdr-sync can use")
    unreachable = user_error(error)
    if unreachable is None:
        raise error
    remedy = (
        "Check that it runs and can be reached from here, "
        f"and that {setting} has the right host, port, name, user and password"
    )
    return _failed(check, unreachable, remedy=remedy)


def _check_server(connection: Connection, url: str) -> Finding:
    require_supported_server(connection)
    name, version = server_of(connection)
    dotted = ".".join(str(part) for part in version)
    return Finding(check="database", found=f"{name} {dotted} at {shown_url(url)}")


def _check_clock(connection: Connection) -> Finding:
    """How far apart the two clocks are. The time that the query took does not count."""
    before = datetime.now(UTC)  # noqa: TID251 (compared with the database's; nothing depends on it)
    theirs = database_now(connection)
    after = datetime.now(UTC)  # noqa: TID251 (the same)
    ahead, behind = before - theirs, theirs - after
    skew = max(ahead, behind, timedelta(0))
    if skew <= _MOST_SKEW:
        found = f"this machine and the database differ by {skew.total_seconds():.1f} s"
        return Finding(check="clock", found=found)
    where = "ahead of" if ahead > behind else "behind"
    return Finding(
        check="clock",
        result="warning",
        found=f"this machine's clock is {skew.total_seconds():.0f} s {where} the database's; the job is not "
        "affected, because it uses only the database's clock",
        remedy="Synchronize both machines by NTP, or log lines and cron disagree with the tables",
    )


def _check_sqlite_file(engine: Engine, path: Path) -> Finding:
    dangers = sqlite_dangers(engine, path)
    if not dangers:
        return Finding(check="SQLite file", found="local disk, used by one machine")
    remedy = "Use a database server that machines can share, such as PostgreSQL or MariaDB"
    return Finding(check="SQLite file", result="warning", found="\n".join(dangers), remedy=remedy)


# API


def _check_api(settings: Settings, account: Account, canary: str | None) -> Finding:
    """Ask the API once, and judge the answer as the job does.

    Args:
        settings: where to ask, and how long to wait for the whole answer.
        account: whose credentials to use.
        canary: a request of this account that is known to be good. Where it is None, the request asked
            about cannot exist, so a refusal can mean either the request or the credentials.
    """
    try:
        error = _ask(settings, account, canary or UNKNOWN_REQUEST_ID)
    except SettingsError as wrong:
        return _failed("api", wrong, remedy="Correct api_url (CDR_SYNC_API_URL) or proxy (CDR_SYNC_PROXY)")
    ambiguous = RateLimitedError if canary else RateLimitedError | NotFoundError | RejectedError
    verdict = Verdict.HOLD if isinstance(error, ambiguous) else judge_canary(error)
    host = urlsplit(settings.api_url).hostname or ""
    match verdict:
        case Verdict.COUNT:
            return Finding(check="api", found=f"{host} answers and accepts the credentials")
        case Verdict.HOLD:
            found = f"{host} answers; could not verify the credentials ({error})"
            remedy = f"Fetch a request that PIOPIY has: `cdr-sync fetch ID --account {account.name}`"
            return Finding(check="api", result="warning", found=found, remedy=remedy)
        case Verdict.REFUSED:
            found = f"{host} refuses the credentials ({error})"
            remedy = "Compare the account's app_id and secret with those that PIOPIY shows"
            return _failed("api", CredentialsRefusedError(found, remedy=remedy))
    found = f"{host} gives no valid answer ({error})"
    remedy = (
        "Check that api_url (CDR_SYNC_API_URL) and proxy (CDR_SYNC_PROXY) are correct and can be reached "
        "from here; if so, the problem is on PIOPIY's side, and the next run will retry"
    )
    return _failed("api", ApiUnavailableError(found, remedy=remedy))


def _ask(settings: Settings, account: Account, request_id: str) -> RequestError | None:
    """Call the API once; returns what was wrong with its answer."""
    api = api_of(settings)
    try:
        reply = api.fetch_answer(request_id, Credentials(account.app_id, account.secret))
        body = hide_secret_in_bytes(reply.body, account.secret)
        answer = read_answer(reply.status, body, retry_after=reply.retry_after)
        parse_legs(answer, region=settings.default_region)
    except RequestError as error:
        return error
    finally:
        api.close()
    return None
