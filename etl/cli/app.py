"""What all commands share: settings, database and log, each made when it is first needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etl.errors import CdrSyncError, SettingsError, UsageError
from etl.log import Log
from etl.redaction import Redaction, password_in
from etl.settings import (
    DEFAULT_ACCOUNT,
    Account,
    Settings,
    config_path,
    environment_name,
    load_settings,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


class App:
    """One call of the command line."""

    def __init__(self, options: Mapping[str, object], *, is_verbose: bool) -> None:
        self._options = dict(options)
        self._is_verbose = is_verbose
        self._engines: list[Engine] = []
        self.redaction = Redaction()

    def set_option(self, setting: str, value: object) -> None:
        """Take over the option of a command that stands for a setting; None leaves the setting alone."""
        self._options[setting] = value

    @cached_property
    def settings(self) -> Settings:
        """The settings; wrong ones are told all at once. What of them is secret is kept out of all output."""
        settings = load_settings(self._options)
        self.redaction.add(*(account.secret for account in settings.accounts.values()), settings.ping_url)
        self.redaction.add(*map(password_in, (settings.database_url, settings.proxy)))
        return settings

    @property
    def config_path(self) -> Path:
        """The TOML file, whether or not it is there."""
        return config_path(self._options)

    @cached_property
    def log(self) -> Log:
        """The log, which knows what it must not show."""
        style = self.settings.log_format
        return Log(is_verbose=self._is_verbose, style=style, redaction=self.redaction)

    def tell_failure(self, error: BaseException, known: CdrSyncError | None, **context: object) -> None:
        """Tell in one line what ended the command, or in some more a fault of this program.

        It is a message to whoever typed the command, so that it is JSON only where that was asked for.

        Args:
            error: what was raised.
            known: the same in the words of this project; None for a fault of this program.
            context: what it was about.
        """
        from etl.cli.crash import FAULT, crash_fields, crash_text  # noqa: PLC0415 (seldom needed)

        if self._wants_json():
            fields = context if known else context | crash_fields(error)
            Log(style="json", redaction=self.redaction).error(str(known or FAULT), **fields)
        else:
            told = f"cdr-sync: {known}" if known else crash_text(error, context)
            click.echo(self.redaction.clean(told), err=True)

    def _wants_json(self) -> bool:
        try:
            return self.settings.log_format == "json"
        except CdrSyncError:  # then it is what is wrong, and what was said of the format has to do
            said = self._options.get("log_format") or os.environ.get(environment_name("log_format"))
            return said == "json"

    def accounts(self, name: str | None) -> list[Account]:
        """The accounts to work for: all that are configured, or the one of this name.

        Raises:
            SettingsError: there are no credentials for it.
        """
        known = self.settings.accounts
        if name is not None and name not in known:
            raise SettingsError(
                f"There are no credentials for account {name!r}: add [accounts.{name}] to the settings"
            )
        if not known:
            raise SettingsError(
                "There are no credentials: set PIOPIY_APP_ID, and PIOPIY_SECRET or PIOPIY_SECRET_FILE"
            )
        return [known[name]] if name is not None else list(known.values())

    def account(self, name: str | None) -> Account:
        """The one account to ask for: the named one, else the default one, else the only one."""
        if name is None and DEFAULT_ACCOUNT not in self.settings.accounts and len(self.settings.accounts) > 1:
            raise UsageError(f"Which account? Add --account with one of {', '.join(self.settings.accounts)}")
        chosen = name or (DEFAULT_ACCOUNT if DEFAULT_ACCOUNT in self.settings.accounts else None)
        return self.accounts(chosen)[0]

    def close(self) -> None:
        """Give back what the command held, at its end."""
        for engine in self._engines:
            engine.dispose()

    def engine_as_it_is(self, *, read_seconds: int | None = None) -> Engine:
        """The database, whatever its schema; one answer of a server may take so long, or else as usual."""
        from etl.db.engine import open_engine  # noqa: PLC0415

        self._engines.append(open_engine(self.settings.database_url, read_seconds=read_seconds))
        return self._engines[-1]

    def engine(self, *, creates: bool = True, read_seconds: int | None = None) -> Engine:
        """The database with the schema that this version needs.

        A SQLite file that does not exist yet is made by the first command that writes.
        """
        from etl.db.engine import (  # noqa: PLC0415
            is_empty,
            reading,
            require_current_schema,
            sqlite_path,
        )

        is_file = sqlite_path(self.settings.database_url) is not None
        if is_file and creates:
            from etl.db.engine import create_sqlite_file  # noqa: PLC0415

            create_sqlite_file(self.settings.database_url)
        engine = self.engine_as_it_is(read_seconds=read_seconds)
        with reading(engine) as connection:
            is_new = is_file and creates and is_empty(connection)
            if not is_new:
                require_current_schema(connection)
        if is_new:
            from etl.db.schema import upgrade  # noqa: PLC0415

            upgrade(engine)
        return engine

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for a command that only looks."""
        from etl.db.engine import reading  # noqa: PLC0415

        with reading(self.engine(creates=False)) as connection:
            yield connection

    @contextmanager
    def long_reading(self) -> Iterator[Connection]:
        """A connection for a command that looks at much, and that no time-out cuts off."""
        from etl.db.engine import LONG_READ_SECONDS, long_reading  # noqa: PLC0415

        with long_reading(self.engine(creates=False, read_seconds=LONG_READ_SECONDS)) as connection:
            yield connection


pass_app = click.make_pass_decorator(App)
