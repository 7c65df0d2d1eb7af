"""The settings: option, then environment, then TOML file, then default.

One error names everything that is wrong, and where it was read. Secrets come from the environment or from
files, never from an option, and are never shown.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import platformdirs

from etl.errors import SettingsError, did_you_mean

API_URL = "https://piopiy.telecmi.com/v1/piopiy/requestid_cdr"
DEFAULT_ACCOUNT = "default"
LONGEST_NAME = 64  # of an account: the width of the column
_NAME = "cdr-sync"
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhd]?)")
_VARIABLE = re.compile("[A-Z_][A-Z0-9_]{0,63}")
_LONGEST_SECONDS = 3_660 * 86_400
# Where a setting has no range, its description says in words which values it accepts.
_URL = msgspec.Meta(pattern=r"^(https?://\S+)?$", description="an http:// or https:// URL")
_PROXY = msgspec.Meta(pattern=r"^(http://\S+)?$", description="an http:// URL")
_API_URL = msgspec.Meta(
    pattern=r"^https?://[^\s/?#@]+(/\S*)?$",
    description="an http:// or https:// URL without user or password",
)
_REGION = msgspec.Meta(
    pattern="^[A-Z]{2}$",
    description="a country of ISO 3166 in two capital letters, such as IN or GB",
)


def parse_duration(text: str | float) -> timedelta:
    """Read `30s`, `15m`, `72h`, `7d`, or seconds as a bare number.

    Raises:
        ValueError: the text is not a valid duration.
    """
    match = _DURATION.fullmatch(str(text).strip().lower())
    if match is None or isinstance(text, bool):
        raise ValueError(f"{text!r} is not a valid duration. Use 30s, 15m, 72h, 7d, or seconds")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > _LONGEST_SECONDS:
        raise ValueError(f"{text!r} is too long. The longest duration is ten years")
    return timedelta(seconds=seconds)


@dataclass(frozen=True, slots=True)
class Account:
    """One PIOPIY account: its name in the settings, and its credentials."""

    name: str
    app_id: int
    secret: str = field(repr=False)
    secret_file: Path | None = field(default=None, compare=False)  # the file that the secret came from
    secret_env: str | None = field(default=None, compare=False)  # the variable that the secret came from


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting, with its type and default. The names are those of the TOML file."""

    database_url: str = ""  # empty: a SQLite file in the user's data folder
    api_url: Annotated[str, _API_URL] = API_URL
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8
    rate_limit: Annotated[float, msgspec.Meta(ge=0, le=100_000)] = 0.0
    tries: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 8
    retry_delay: timedelta = timedelta(seconds=30)
    request_timeout: timedelta = timedelta(seconds=30)
    lease: timedelta = timedelta(minutes=5)
    settle: timedelta = timedelta(minutes=15)
    empty_for: timedelta = timedelta(hours=72)
    empty_delay: timedelta = timedelta(minutes=1)
    default_region: Annotated[str, _REGION] = "IN"
    proxy: Annotated[str, _PROXY] = ""
    ca_file: str = ""  # empty: the authorities that requests ships
    ping_url: Annotated[str, _URL] = ""
    metrics_file: str = ""
    log_format: Literal["auto", "console", "json"] = "auto"
    accounts: dict[str, Account] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        """Show no values: URLs can contain passwords."""
        return "Settings(…)"


SETTING_NAMES = tuple(name for name in Settings.__struct_fields__ if name != "accounts")
_FROM_FILE = ("database_url", "ping_url")  # can also be read from the file that `…_FILE` names
# Variables of other programs that name a file of authorities; ours comes first.
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_OF_ACCOUNTS = {"app_id", "secret_file", "secret_env"}
_FIELD_TYPES = {field.name: field.type for field in msgspec.structs.fields(Settings)}


def environment_name(setting: str) -> str:
    """The environment variable of a setting."""
    return f"CDR_SYNC_{setting.upper()}"


def load_settings(options: Mapping[str, object], environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from options, environment and TOML file.

    Args:
        options: values of the command line, by setting; None for an option that was not given. `config` is
            the path of the TOML file.
        environment: the environment variables.

    Raises:
        SettingsError: one or more settings are wrong; the message has one line for each.
    """
    problems: list[str] = []
    path, is_named = config_path(options, environment), bool(_named_config(options, environment))
    content = _read_toml(path, problems, is_named=is_named)
    values: dict[str, Any] = {}
    for name in SETTING_NAMES:
        place, value = _find(name, options, environment, problems)
        if value is None and name in content:
            place, value = f"{path}: {name}", content[name]
        if value is None and name == "ca_file":
            place = next((one for one in _CA_VARIABLES if environment.get(one)), place)
            value = environment.get(place)
        if value is not None:
            _convert(name, value, place, values, problems)
    known = {*SETTING_NAMES, "accounts"}
    problems += [
        f"{path}: {_no_setting(name, known, shown=repr(name))}" for name in content if name not in known
    ]
    values["accounts"] = _accounts(content.get("accounts", {}), path, environment, problems)
    settings = Settings(**values)
    if not settings.request_timeout:
        problems.append("request_timeout must be more than 0")
    if settings.lease < 2 * settings.request_timeout:
        problems.append(
            "lease must be at least twice request_timeout. Otherwise claims expire during their call"
        )
    if problems:
        raise SettingsError("The configuration is wrong:\n" + "\n".join(f"  {line}" for line in problems))
    if not settings.database_url:  # the default does not depend on the working directory
        file = platformdirs.user_data_path(_NAME, appauthor=False) / "cdr-sync.sqlite3"
        settings = msgspec.structs.replace(settings, database_url=f"sqlite:///{file}")
    return settings


def expanded(name: str) -> Path:
    """The path of a file whose name may begin with ~ for a user's home folder."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 (pathlib's fails if there is no such user)


def config_path(options: Mapping[str, object], environment: Mapping[str, str] = os.environ) -> Path:
    """The path of the TOML file, named or default, whether or not the file exists."""
    named = _named_config(options, environment)
    if named:
        return expanded(str(named))
    return platformdirs.user_config_path(_NAME, appauthor=False) / "cdr-sync.toml"


def url_files(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The files that contain URLs, which can be secret or contain a password."""
    variables = [f"{environment_name(name)}_FILE" for name in _FROM_FILE]
    return [expanded(environment[name]) for name in variables if environment.get(name)]


def _named_config(options: Mapping[str, object], environment: Mapping[str, str]) -> object:
    return options.get("config") or environment.get("CDR_SYNC_CONFIG")


def unknown_variables(accounts: Iterable[Account], environment: Mapping[str, str] = os.environ) -> list[str]:
    """One message per environment variable that is named like a setting but is not one."""
    begin = environment_name("")
    names = ("config", *SETTING_NAMES, *(f"{name}_file" for name in _FROM_FILE))
    known = {name.upper() for name in names}
    ours = {f"{begin}{name}" for name in known} | {account.secret_env for account in accounts}
    return [
        _no_setting(name.removeprefix(begin), known, shown=name, begin=begin)
        for name in sorted(environment)
        if name.startswith(begin) and name not in ours
    ]


def eclipsed_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """One message per variable that names a file which is not read, because the value itself is set."""
    names = ("PIOPIY_SECRET", *map(environment_name, _FROM_FILE))
    return [
        f"{name}_FILE is not read, because {name} is set too"
        for name in names
        if environment.get(name) and environment.get(f"{name}_FILE")
    ]


def _no_setting(name: str, known: Iterable[str], *, shown: str, begin: str = "") -> str:
    question = did_you_mean(name, known, shown=lambda one: f"{begin}{one}")
    return f"there is no setting {shown}{'. ' if question else ''}{question}"


def _require_region(region: str) -> None:
    """Reject a country that the library for phone numbers does not support."""
    from phonenumbers import SUPPORTED_REGIONS  # noqa: PLC0415 (slow to import, and needed only for this setting)

    if region not in SUPPORTED_REGIONS:
        raise ValueError(region)


def _read_toml(path: Path, problems: list[str], *, is_named: bool) -> dict[str, Any]:
    if not is_named and not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path}: is not valid TOML: {error}")
    return {}


def _find(
    name: str, options: Mapping[str, object], environment: Mapping[str, str], problems: list[str]
) -> tuple[str, object]:
    """Look up a setting outside the TOML file, by precedence: where it was found, and its value."""
    variable = environment_name(name)
    file_variable = f"{variable}_FILE"
    if options.get(name) is not None:
        return f"--{name.replace('_', '-')}", options[name]
    if environment.get(variable):
        return variable, environment[variable]
    if name in _FROM_FILE and environment.get(file_variable):
        return file_variable, _read_secret_file(environment[file_variable], file_variable, problems)
    return variable, None


def _convert(name: str, value: object, place: str, values: dict[str, Any], problems: list[str]) -> None:
    field_type = _FIELD_TYPES[name]
    if field_type is timedelta:
        try:
            values[name] = parse_duration(value)  # type: ignore[arg-type]  # rejects what is not a string or a number
        except ValueError as error:
            problems.append(f"{place}: {error}")
        return
    try:
        values[name] = msgspec.convert(value, type=field_type, strict=not isinstance(value, str))
        if name == "default_region":
            _require_region(values[name])
        if name == "ca_file" and not os.access(expanded(values[name]), os.R_OK):
            problems.append(f"{place}: {values[name]} cannot be read. Name a PEM file of authorities")
    except ValueError:
        # The value is not repeated, because it could contain a password.
        problems.append(f"{place} must be {_wanted(name)}")


def _wanted(name: str) -> str:
    """The values that a setting accepts, in words. Durations have their own message."""
    field_type = _FIELD_TYPES[name]
    if get_origin(field_type) is Literal:
        *words, last = get_args(field_type)
        return f"{', '.join(words)} or {last}"
    if field_type is str:
        return "text"
    kind, meta = get_args(field_type)
    return meta.description or f"a {'whole ' if kind is int else ''}number from {meta.ge:,} to {meta.le:,}"


def _accounts(
    tables: object, path: Path, environment: Mapping[str, str], problems: list[str]
) -> dict[str, Account]:
    if not isinstance(tables, dict):
        problems.append(f"{path}: accounts must be tables, such as [accounts.sales]")
        tables = {}
    merged: dict[str, dict[str, object]] = {
        name: dict(table) if isinstance(table, dict) else {} for name, table in tables.items()
    }
    stronger: dict[str, object] = {}  # the default account as the environment has it
    if app_id := environment.get("PIOPIY_APP_ID"):
        stronger["app_id"] = app_id
    if environment.get("PIOPIY_SECRET"):
        stronger |= {"secret_env": "PIOPIY_SECRET", "secret_file": None}
    elif file := environment.get("PIOPIY_SECRET_FILE"):
        stronger |= {"secret_env": None, "secret_file": file}
    if stronger:
        merged[DEFAULT_ACCOUNT] = merged.get(DEFAULT_ACCOUNT, {}) | stronger
    accounts = {name: _account(name, table, path, environment, problems) for name, table in merged.items()}
    return {name: account for name, account in accounts.items() if account is not None}


def _account(
    name: str, table: Mapping[str, object], path: Path, environment: Mapping[str, str], problems: list[str]
) -> Account | None:
    before = len(problems)
    place = f"account {name!r}"
    app_id = str(table.get("app_id") or "").strip()
    if not (app_id.isascii() and app_id.isdigit() and len(app_id) <= 18):  # noqa: PLR2004 (fits 64 bits)
        problems.append(f"{place}: app_id must be the number that the PIOPIY dashboard shows (PIOPIY_APP_ID)")
    unknown = set(table) - _OF_ACCOUNTS
    if "secret" in unknown:
        problems.append(f"{path}: {place}: a secret must not be in this file. Use secret_file or secret_env")
    elif unknown:
        problems += [
            f"{path}: {place}: {_no_setting(name, _OF_ACCOUNTS, shown=repr(name))}"
            for name in sorted(unknown)
        ]
    secret = ""
    if file := table.get("secret_file"):
        secret = _read_secret_file(str(file), f"{place}: secret_file", problems) or ""
    elif variable := table.get("secret_env"):
        secret = environment.get(str(variable), "").strip()
        if not secret:
            # Anything but a name could be the secret itself, typed in the wrong place: do not repeat it.
            shown = str(variable) if _VARIABLE.fullmatch(str(variable)) else "that secret_env names"
            problems.append(f"{place}: the environment variable {shown} is empty or not set")
    else:
        problems.append(f"{place}: has no secret. Set PIOPIY_SECRET, PIOPIY_SECRET_FILE or secret_file")
    if len(name) > LONGEST_NAME:
        problems.append(f"{place}: the name is longer than {LONGEST_NAME} characters")
    if len(problems) > before:
        return None
    if file:
        return Account(name, int(app_id), secret, secret_file=expanded(str(file)))
    return Account(name, int(app_id), secret, secret_env=str(variable))


def _read_secret_file(file: str, place: str, problems: list[str]) -> str | None:
    try:
        value = expanded(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        # A word without a slash could be the secret itself: do not repeat it.
        shown = file if "/" in file or "\\" in file else "the file that it names"
        problems.append(f"{place}: {shown} cannot be read: {getattr(error, 'strerror', None) or 'not text'}")
        return None
    if not value:
        problems.append(f"{place}: the file is empty")
        return None
    return value
