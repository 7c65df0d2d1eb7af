"""The configuration: settings that contradict each other, accounts, who may read the secrets, the metrics."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from etl.doctor.findings import Finding
from etl.settings import Settings, eclipsed_variables, expanded, unknown_variables, url_files

_HOLDS_PASSWORD = re.compile(r"://[^/@:]*:.+@|password=")


def check_settings(settings: Settings, config: Path) -> Finding:
    """Settings that are right each on its own; the wrong ones never come here."""
    place = f"{config}, and the environment" if config.is_file() else f"the environment; there is no {config}"
    problems = dict(_problems(settings))
    if not problems:
        return Finding(check="configuration", result="ok", found=f"read from {place}")
    return Finding(
        check="configuration",
        result="warning",
        found="\n".join(problems),
        remedy="; ".join(dict.fromkeys(problems.values())),
    )


def _problems(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is amiss with settings of which each is right, and what to do about it."""
    # A claim may wait for the one before it in the same thread, so that each has half of the lease.
    seconds = (2 * settings.tries * settings.request_timeout).total_seconds()
    if settings.lease.total_seconds() < seconds:
        yield (
            f"lease ends before calls that time out could be tried {settings.tries} times, as tries says",
            f"set lease (CDR_SYNC_LEASE) to {seconds:g}s or more, or tries or request_timeout to less",
        )
    api = urlsplit(settings.api_url)
    if api.scheme == "http" and not _is_this_machine(api.hostname or ""):
        yield (
            f"the secret goes to {api.hostname} as plain text, since api_url begins with http://",
            "set api_url (CDR_SYNC_API_URL) to one that begins with https://",
        )
    for problem in unknown_variables(settings.accounts.values()):
        yield problem, "unset or rename the variables that are no settings"
    for problem in eclipsed_variables():
        yield problem, "unset one of the two variables"


def _is_this_machine(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def check_accounts(settings: Settings) -> Finding:
    """Whether there are credentials at all."""
    if settings.accounts:
        return Finding(check="accounts", result="ok", found=", ".join(settings.accounts))
    return Finding(
        check="accounts",
        result="failed",
        found="there are no credentials",
        remedy="set PIOPIY_APP_ID, and PIOPIY_SECRET or PIOPIY_SECRET_FILE",
        exit_code=78,
    )


def check_secret_files(settings: Settings, config: Path) -> Finding:
    """Whether anybody but its owner can read a file that holds a secret."""
    files = list(dict.fromkeys(_secret_files(settings, config)))
    modes = {file: stat.S_IMODE(file.stat().st_mode) for file in files}
    is_told = os.name == "posix"  # elsewhere a mode does not say who may read a file
    is_open = {file: mode for file, mode in modes.items() if is_told and mode & (stat.S_IRGRP | stat.S_IROTH)}
    if not is_open:
        found = ", ".join(str(file) for file in files) or "there are none"
        return Finding(check="secret files", result="ok", found=found)
    return Finding(
        check="secret files",
        result="warning",
        found="others than the owner can read "
        + ", ".join(f"{file} (mode {mode:04o})" for file, mode in is_open.items()),
        remedy=f"chmod go-rwx {shlex.join(str(file) for file in is_open)}",
    )


def _secret_files(settings: Settings, config: Path) -> Iterator[Path]:
    yield from (account.secret_file for account in settings.accounts.values() if account.secret_file)
    yield from (
        file for file in url_files() if file.is_file()
    )  # where something stronger is set, it may be gone
    urls = (settings.database_url, settings.proxy)
    secrets = [settings.ping_url, *(url for url in urls if _HOLDS_PASSWORD.search(url))]
    if config.is_file() and any(secret and secret in config.read_text("utf-8") for secret in secrets):
        yield config


def check_metrics_file(settings: Settings) -> Finding:
    """Whether a run could replace the metrics file, by the rights of whoever runs this."""
    if not settings.metrics_file:
        return Finding(check="metrics file", result="ok", found="none is configured")
    file = expanded(settings.metrics_file)
    folder = file.parent
    if file.is_dir():
        trouble, remedy = f"{file} is a folder", "set metrics_file (CDR_SYNC_METRICS_FILE) to a file in it"
    elif not folder.is_dir():
        trouble, remedy = f"there is no folder {folder}", f"mkdir {shlex.quote(str(folder))}"
    elif not os.access(folder, os.W_OK | os.X_OK):
        trouble = f"{folder} cannot be written to by this user"
        remedy = "give that right to the user that runs `cdr-sync sync`, or set another metrics_file"
    else:
        return Finding(check="metrics file", result="ok", found=f"{folder} can be written to")
    return Finding(check="metrics file", result="failed", found=trouble, remedy=remedy, exit_code=1)
