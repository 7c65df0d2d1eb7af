"""All checks, in an order in which each follows those that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from etl.doctor import configuration
from etl.doctor.api import check_api
from etl.doctor.database import check_database
from etl.doctor.findings import Finding, failed, skipped
from etl.errors import SettingsError
from etl.settings import Settings

_FURTHER_CHECKS = ("accounts", "secret files", "metrics file", "database", "clock", "schema", "api")


def examine(read_settings: Callable[[], Settings], config: Path) -> Iterator[Finding]:
    """Make all checks, and give each finding as soon as it is there.

    Args:
        read_settings: gives the settings, or raises a SettingsError that names all that is wrong with them.
        config: the TOML file, whether or not it is there.
    """
    try:
        settings = read_settings()
    except SettingsError as error:
        remedy = "set right what is named; the README's section Settings says what each one takes"
        yield failed("configuration", error, remedy=remedy)
        yield from (skipped(check, "configuration") for check in _FURTHER_CHECKS)
        return
    yield configuration.check_settings(settings, config)
    yield configuration.check_accounts(settings)
    yield configuration.check_secret_files(settings, config)
    yield configuration.check_metrics_file(settings)
    findings, canaries = check_database(settings)
    yield from findings
    if not settings.accounts:
        yield skipped("api", "accounts")
    for account in settings.accounts.values():
        yield check_api(settings, account, canaries.get(account.name))
