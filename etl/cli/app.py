"""What all commands share: settings, database, log and error reports, each created on first use."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etl.errors import AlreadyRunningError, CdrSyncError, SettingsError, UsageError
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
        """Set a setting from an option of a command; None leaves the setting unchanged."""
        self._options[setting] = value

    @cached_property
    def settings(self) -> Settings:
        """The settings; an error names all wrong ones at once. Their secrets are removed from all output."""
        settings = load_settings(self._options)
        self.redaction.add(*(account.secret for account in settings.accounts.values()), settings.ping_url)
        self.redaction.add(*map(password_in, (settings.database_url, settings.proxy)))
        return settings

    @property
    def config_path(self) -> Path:
        """The path of the TOML file, whether or not the file exists."""
        return config_path(self._options)

    @cached_property
    def log(self) -> Log:
        """The log, which removes all known secrets."""
        style = self.settings.log_format
        return Log(is_verbose=self._is_verbose, style=style, redaction=self.redaction)

    def report_failure(self, error: BaseException, **context: object) -> None:
        """Print why a command failed: the one place where errors are printed.

        It is text, or with the log format `json` one JSON object with the fields of the error. A bug in this
        program is reported with its position but without values: messages of foreign errors can contain rows.

        Args:
            error: what was raised. What is not a `CdrSyncError` is a bug.
            context: what the program was working on.
        """
        match error:
            case CdrSyncError():
                text = f"cdr-sync: {error}"
                message, fields = error.reason, {"remedy": error.remedy, "exit_code": error.exit_code}
            case _:
                exception, frames = _name_of(error), list(_frames(error))
                about = ", ".join(f"{name} {value}" for name, value in context.items())
                text = "\n  ".join(filter(None, [f"cdr-sync: {_BUG}:", *frames, exception, about]))
                message, fields = _BUG, {"exception": exception, "frames": frames}
        if self._wants_json():
            Log(style="json", redaction=self.redaction).error(message, **context, **fields)
        else:
            click.echo(self.redaction.clean(text), err=True)

    def _wants_json(self) -> bool:
        try:
            return self.settings.log_format == "json"
        except CdrSyncError:  # the settings are what is wrong: take the format from where it stands
            wanted = self._options.get("log_format") or os.environ.get(environment_name("log_format"))
            return wanted == "json"

    def accounts(self, name: str | None) -> list[Account]:
        """The accounts to work for: all that are configured, or the one with this name.

        Raises:
            SettingsError: it has no credentials.
        """
        known = self.settings.accounts
        if name is not None and name not in known:
            raise SettingsError(
                f"There are no credentials for account {name!r}",
                remedy=f"Add [accounts.{name}] to the settings",
            )
        if not known:
            raise SettingsError(
                "There are no credentials",
                remedy="Set PIOPIY_APP_ID, and PIOPIY_SECRET or PIOPIY_SECRET_FILE",
            )
        return [known[name]] if name is not None else list(known.values())

    def account(self, name: str | None) -> Account:
        """The account to use for one call: the named one, else the default one, else the only one."""
        if name is None and DEFAULT_ACCOUNT not in self.settings.accounts and len(self.settings.accounts) > 1:
            names = ", ".join(self.settings.accounts)
            raise UsageError("There are several accounts", remedy=f"Add --account with one of {names}")
        chosen = name or (DEFAULT_ACCOUNT if DEFAULT_ACCOUNT in self.settings.accounts else None)
        return self.accounts(chosen)[0]

    def close(self) -> None:
        """Close the connections of the command, at its end."""
        for engine in self._engines:
            engine.dispose()

    def engine_as_it_is(self, *, read_seconds: int | None = None) -> Engine:
        """The database, whatever its schema; a server has `read_seconds` for each answer, if given."""
        from etl.db.engine import open_engine  # noqa: PLC0415 (slow to import)

        self._engines.append(open_engine(self.settings.database_url, read_seconds=read_seconds))
        return self._engines[-1]

    def engine(self, *, creates: bool = True, read_seconds: int | None = None) -> Engine:
        """The database with the schema that this version needs.

        A SQLite file that does not exist yet is created by the first command that writes.
        """
        from etl.db.engine import (  # noqa: PLC0415 (slow to import)
            create_sqlite_file,
            is_empty,
            reading,
            require_current_schema,
            sqlite_path,
        )

        is_file = sqlite_path(self.settings.database_url) is not None
        if is_file and creates:
            create_sqlite_file(self.settings.database_url)
        engine = self.engine_as_it_is(read_seconds=read_seconds)
        with reading(engine) as connection:
            is_new = is_file and creates and is_empty(connection)
            if not is_new:
                require_current_schema(connection)
        if is_new:
            from etl.db.schema import upgrade  # noqa: PLC0415 (slow to import)

            upgrade(engine)
        return engine

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for a command that only reads."""
        from etl.db.engine import reading  # noqa: PLC0415 (slow to import)

        with reading(self.engine(creates=False)) as connection:
            yield connection

    @contextmanager
    def long_reading(self) -> Iterator[Connection]:
        """A connection for a command that reads many rows, without the usual time-outs."""
        from etl.db.engine import LONG_READ_SECONDS, long_reading  # noqa: PLC0415 (slow to import)

        with long_reading(self.engine(creates=False, read_seconds=LONG_READ_SECONDS)) as connection:
            yield connection


pass_app = click.make_pass_decorator(App)


@contextmanager
def only_one(database_url: str) -> Iterator[None]:
    """Hold the lock of `--single-instance`: one run at a time for each database on this machine.

    Overlapping runs are safe without it. The operating system releases the lock when the process ends.

    Raises:
        AlreadyRunningError: another process on this machine holds the lock.
    """
    import fcntl  # noqa: PLC0415 (does not exist on Windows)
    import hashlib  # noqa: PLC0415 (few runs need it)
    import tempfile  # noqa: PLC0415 (few runs need it)

    from etl.db.engine import sqlite_path  # noqa: PLC0415 (slow to import)

    file_path = sqlite_path(database_url)
    subject = str(file_path.resolve()) if file_path else database_url
    name = hashlib.sha256(subject.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"cdr-sync-{os.getuid()}-{name}.lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError("Another --single-instance run holds the lock; exiting") from None
        yield


_BUG = "this is a bug in cdr-sync; please report these lines"
_PACKAGE = Path(__file__).resolve().parent.parent


def _frames(error: BaseException) -> Iterator[str]:
    """Where a bug is: the frames of this package, and the last three of any."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in [*(one for one in frames[:-3] if _PACKAGE in Path(one.filename).parents), *frames[-3:]]:
        yield f"{frame.filename}:{frame.lineno} in {frame.name}"


def _name_of(error: BaseException) -> str:
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}"
