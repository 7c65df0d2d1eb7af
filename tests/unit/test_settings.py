"""The settings: option, environment, TOML file, default; all mistakes in one error; no secret shown."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from etl.errors import SettingsError
from etl.settings import (
    SETTING_NAMES,
    Account,
    Settings,
    load_settings,
    parse_duration,
    unknown_variables,
)

SECRET = "s3cr3t-0f-the-account"
VENDOR = "https://piopiy.telecmi.com/v1/piopiy/requestid_cdr"
SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=n) for n in (1, 60, 3600, 86_400))


@pytest.fixture
def toml(tmp_path):
    """Write a TOML file; returns its path as text."""

    def write(*lines: str) -> str:
        path = tmp_path / "cdr-sync.toml"
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    return write


@pytest.fixture
def load(toml):
    """Load settings from TOML lines, an environment and options, and from nowhere else."""

    def load(*lines: str, environment=None, **options) -> Settings:
        return load_settings({"config": toml(*lines), **options}, environment or {})

    return load


@pytest.fixture
def problems(load):
    """What is wrong, one line per problem."""

    def problems(*lines: str, environment=None, **options) -> list[str]:
        with pytest.raises(SettingsError) as caught:
            load(*lines, environment=environment, **options)
        assert caught.value.exit_code == 78
        first, *rest = str(caught.value).splitlines()
        assert first == "The configuration is wrong:"
        return [line.strip() for line in rest]

    return problems


# --- Precedence --------------------------------------------------------------------------------------

# A setting: its value as an option and the parsed value, the same for environment and TOML, and its default.
PLACES = [
    ("api_url", "http://o/x", "http://o/x", "http://e/x", "http://e/x", '"http://t/x"', "http://t/x", VENDOR),
    ("workers", 2, 2, "3", 3, "4", 4, 8),
    ("rate_limit", 2.5, 2.5, "3.5", 3.5, "4", 4.0, 0.0),
    ("tries", 2, 2, "4", 4, "5", 5, 3),
    ("max_attempts", 2, 2, "3", 3, "4", 4, 8),
    ("retry_delay", "2s", 2 * SECOND, "3m", 3 * MINUTE, '"4h"', 4 * HOUR, 30 * SECOND),
    ("request_timeout", "2s", 2 * SECOND, "3", 3 * SECOND, "4", 4 * SECOND, 30 * SECOND),
    ("lease", "2m", 2 * MINUTE, "3m", 3 * MINUTE, '"4m"', 4 * MINUTE, 5 * MINUTE),
    ("settle", "0", 0 * SECOND, "3m", 3 * MINUTE, "0", 0 * SECOND, 15 * MINUTE),
    ("empty_for", "2d", 2 * DAY, "3d", 3 * DAY, '"4d"', 4 * DAY, 72 * HOUR),
    ("empty_delay", "2s", 2 * SECOND, "3s", 3 * SECOND, "4.5", 4.5 * SECOND, MINUTE),
    ("default_region", "GB", "GB", "US", "US", '"DE"', "DE", "IN"),
    ("ping_url", "http://o/", "http://o/", "http://e/", "http://e/", '"http://t/"', "http://t/", ""),
    ("metrics_file", "o.prom", "o.prom", "e.prom", "e.prom", '"t.prom"', "t.prom", ""),
    ("ca_file", "/dev/null", "/dev/null", "/dev/zero", "/dev/zero", '"/etc"', "/etc", ""),
    ("log_format", "console", "console", "json", "json", '"console"', "console", "auto"),
    (
        "database_url",
        "sqlite:///o",
        "sqlite:///o",
        "sqlite:///e",
        "sqlite:///e",
        '"sqlite:///t"',
        "sqlite:///t",
        None,
    ),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[0])
def test_an_option_beats_the_environment_beats_the_file_beats_the_default(load, place):
    name, option, from_option, variable, from_environment, line, from_file, default = place
    environment = {f"CDR_SYNC_{name.upper()}": variable}
    line = f"{name} = {line}"

    assert getattr(load(line, environment=environment, **{name: option}), name) == from_option
    assert getattr(load(line, environment=environment), name) == from_environment
    assert getattr(load(line, environment=environment, **{name: None}), name) == from_environment
    assert getattr(load(line), name) == from_file
    if default is not None:
        assert getattr(load(), name) == default


def test_the_precedence_of_every_setting_is_tested():
    tested = {place[0] for place in PLACES}

    assert set(Settings.__struct_fields__) - tested == {"accounts", "proxy"}


@pytest.mark.parametrize(
    ("variables", "file"),
    [
        ({"REQUESTS_CA_BUNDLE": "/dev/null", "SSL_CERT_FILE": "/dev/zero"}, "/dev/null"),
        ({"SSL_CERT_FILE": "/dev/zero"}, "/dev/zero"),
        ({"SSL_CERT_FILE": "/dev/zero", "CDR_SYNC_CA_FILE": "/dev/null"}, "/dev/null"),
    ],
)
def test_the_authorities_to_trust_come_from_ours_or_the_usual_variables(load, variables, file):
    assert load(environment=variables).ca_file == file


def test_a_file_of_authorities_that_cannot_be_read_is_named_with_its_setting(problems):
    (line,) = problems(environment={"SSL_CERT_FILE": "/nope.pem"})

    assert line == "SSL_CERT_FILE: /nope.pem cannot be read. Name a PEM file of authorities"


def test_an_empty_variable_is_ignored(load):
    assert load("workers = 4", environment={"CDR_SYNC_WORKERS": ""}).workers == 4


@pytest.mark.parametrize("name", ["database_url", "ping_url"])
def test_a_url_with_a_password_can_come_from_a_file(load, tmp_path, name):
    held = tmp_path / "held"
    held.write_text("https://from-the-file/\n")
    environment = {f"CDR_SYNC_{name.upper()}_FILE": str(held)}

    assert (
        getattr(load(f'{name} = "https://toml/"', environment=environment), name) == "https://from-the-file/"
    )
    environment[f"CDR_SYNC_{name.upper()}"] = "https://environment/"
    assert getattr(load(environment=environment), name) == "https://environment/"


def test_the_configuration_file_is_named_by_option_or_environment(tmp_path):
    for name, workers in (("option.toml", 2), ("environment.toml", 3)):
        (tmp_path / name).write_text(f"workers = {workers}\n")
    environment = {"CDR_SYNC_CONFIG": str(tmp_path / "environment.toml")}

    assert load_settings({}, environment).workers == 3
    assert load_settings({"config": str(tmp_path / "option.toml")}, environment).workers == 2


def in_a_home_of_its_own(home: Path, working_directory: Path, code: str) -> str:
    """What a fresh process prints whose user has this home."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("XDG_", "CDR_SYNC", "PIOPIY"))
    }
    root = Path(__file__).parents[2]
    environment |= {"HOME": str(home), "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", f"from etl.settings import *; {code}"],
        cwd=working_directory,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_default_database_does_not_depend_on_the_working_directory(tmp_path):
    places = [tmp_path / "here", tmp_path / "there"]
    for place in places:
        place.mkdir()
    urls = {
        in_a_home_of_its_own(tmp_path, place, "print(load_settings({}).database_url)") for place in places
    }

    assert len(urls) == 1
    assert urls.pop().startswith(f"sqlite:///{tmp_path}/")


def test_the_file_in_the_users_folder_is_read_where_it_exists(tmp_path):
    write = "p = config_path({}); p.parent.mkdir(parents=True); p.write_text('workers = 5'); print(p)"

    assert in_a_home_of_its_own(tmp_path, tmp_path, write).endswith("cdr-sync.toml")
    assert in_a_home_of_its_own(tmp_path, tmp_path, "print(load_settings({}).workers)") == "5"


# --- Durations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("30s", 30 * SECOND),
        ("15m", 15 * MINUTE),
        ("72h", 72 * HOUR),
        ("7d", 7 * DAY),
        ("0", 0 * SECOND),
        ("0s", 0 * SECOND),
        ("45", 45 * SECOND),
        ("1.5", 1.5 * SECOND),
        ("0.5h", 30 * MINUTE),
        (" 30 s ", 30 * SECOND),
        ("30S", 30 * SECOND),
        (45, 45 * SECOND),
        (1.5, 1.5 * SECOND),
        (0, 0 * SECOND),
    ],
)
def test_a_duration_is_a_number_with_a_unit_or_seconds(text, duration):
    assert parse_duration(text) == duration


JUNK = [
    "",
    " ",
    "s",
    "abc",
    "-1",
    "-5m",
    "5w",
    "5 minutes",
    "1h30m",
    "1e3",
    "1,5s",
    "nan",
    "inf",
    "0x10",
    "1_0",
]


@pytest.mark.parametrize("text", [*JUNK, True, False, -1, float("nan"), float("inf"), "9" * 30])
def test_an_invalid_duration_is_rejected(text):
    with pytest.raises(ValueError, match=r"is not a valid duration\. Use 30s, 15m, 72h, 7d, or seconds"):
        parse_duration(text)


@pytest.mark.parametrize("junk", ['"soon"', "true", "-1", "[1]", "nan", "2024-05-01", '"5w"'])
def test_a_wrong_duration_is_named_with_its_place(problems, junk):
    (problem,) = problems(f"settle = {junk}")

    assert "cdr-sync.toml: settle" in problem
    assert "is not a valid duration" in problem


# --- Everything that is wrong, at once ---------------------------------------------------------------


def test_everything_that_is_wrong_is_named_at_once(problems):
    lines = problems(
        "workers = 0",
        'tries = "many"',
        "wrokers = 4",
        "settle = true",
        "[accounts.sales]",
        'app_id = "none"',
        environment={
            "CDR_SYNC_LOG_FORMAT": "xml",
            "CDR_SYNC_EMPTY_FOR": "never",
            "CDR_SYNC_PING_URL_FILE": "/no/such",
        },
        rate_limit=-1.0,
        default_region="India",
    )

    for words in (
        "cdr-sync.toml: workers",
        "cdr-sync.toml: tries",
        "wrokers",
        "cdr-sync.toml: settle",
        "account 'sales': app_id",
        "account 'sales': has no secret",
        "CDR_SYNC_LOG_FORMAT",
        "CDR_SYNC_EMPTY_FOR",
        "CDR_SYNC_PING_URL_FILE",
        "--rate-limit",
        "--default-region",
    ):
        assert [line for line in lines if words in line], words


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("workers", "0"),
        ("workers", "-1"),
        ("workers", "2.5"),
        ("workers", '"many"'),
        ("workers", "true"),
        ("workers", "[2]"),
        ("workers", "100000"),
        ("tries", "0"),
        ("max_attempts", "0"),
        ("rate_limit", "-0.5"),
        ("rate_limit", "nan"),
        ("rate_limit", "inf"),
        ("rate_limit", "true"),
        ("log_format", '"xml"'),
        ("log_format", "5"),
        ("default_region", '"in"'),
        ("default_region", '"IND"'),
        ("default_region", '""'),
        ("default_region", '"UK"'),
        ("default_region", '"ZZ"'),
        ("default_region", "91"),
        ("api_url", '"piopiy.telecmi.com"'),
        ("api_url", '"ftp://piopiy.telecmi.com/"'),
        ("api_url", '"https://"'),
        ("api_url", '"https://user:password@piopiy.telecmi.com/"'),
        ("ping_url", '"hc-ping.com"'),
        ("database_url", "5"),
        ("metrics_file", "5"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(problems, setting, wrong):
    (problem,) = problems(f"{setting} = {wrong}")

    assert f"cdr-sync.toml: {setting}" in problem


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("workers = 0", "a whole number from 1 to 256"),
        ('max_attempts = "many"', "a whole number from 1 to 1,000,000"),
        ("rate_limit = -0.5", "a number from 0 to 100,000"),
        ('log_format = "xml"', "auto, console or json"),
        ("metrics_file = 5", "text"),
        ("proxy = []", "an http:// URL"),
        ('proxy = "https://127.0.0.1:3128"', "an http:// URL"),
    ],
)
def test_a_wrong_value_is_reported_with_the_values_that_are_accepted(problems, line, wanted):
    (problem,) = problems(line)

    assert problem.endswith(f"cdr-sync.toml: {line.partition(' ')[0]} must be {wanted}")


def test_an_unknown_setting_is_reported_with_a_similar_one(problems):
    lines = problems("wrokers = 4", "zzz = 5", "[account.sales]", "app_id = 1", "[accounts.x]", "appid = 1")
    words = [line.partition("there is no setting ")[2] for line in lines]

    assert {"'wrokers'. Did you mean workers?", "'zzz'", "'account'. Did you mean accounts?"} < set(words)
    assert "'appid'. Did you mean app_id?" in words


def test_an_unknown_variable_is_reported_with_a_similar_one():
    accounts = [Account("sales", 1, "s", secret_env="CDR_SYNC_SALES_SECRET")]
    right = {f"CDR_SYNC_{name.upper()}": "1" for name in (*SETTING_NAMES, "config", "ping_url_file")}
    wrong = {"CDR_SYNC_WORKER": "", "CDR_SYNC_DATABASE_FILE": "x", "CDR_SYNC_ZZZ": "x"}

    assert unknown_variables(accounts, {**right, "CDR_SYNC_SALES_SECRET": "s", "HOME": "/"}) == []
    assert unknown_variables([], {**right, **wrong}) == [
        "there is no setting CDR_SYNC_DATABASE_FILE. Did you mean CDR_SYNC_DATABASE_URL_FILE?",
        "there is no setting CDR_SYNC_WORKER. Did you mean CDR_SYNC_WORKERS?",
        "there is no setting CDR_SYNC_ZZZ",
    ]


@pytest.mark.parametrize("broken", ["workers = ", "[accounts", "workers = 1\nworkers = 2", "\x00"])
def test_a_file_that_is_not_valid_toml_is_named(problems, broken):
    (problem,) = problems(broken)

    assert "cdr-sync.toml: is not valid TOML" in problem


def test_a_named_file_must_exist(tmp_path):
    for options, environment in (
        ({"config": str(tmp_path / "none.toml")}, {}),
        ({}, {"CDR_SYNC_CONFIG": str(tmp_path / "none.toml")}),
        ({"config": str(tmp_path)}, {}),
    ):
        with pytest.raises(SettingsError, match="cannot be read"):
            load_settings(options, environment)


@pytest.mark.parametrize(
    ("lease", "timeout", "is_enough"),
    [("59s", "30s", False), ("60s", "30s", True), ("5m", "200s", False), ("5m", "150s", True)],
)
def test_a_lease_must_be_twice_as_long_as_a_call(load, problems, lease, timeout, is_enough):
    lines = (f'lease = "{lease}"', f'request_timeout = "{timeout}"')

    if is_enough:
        assert load(*lines).lease == parse_duration(lease)
    else:
        (problem,) = problems(*lines)
        assert "lease must be at least twice request_timeout" in problem


# --- Accounts and secrets ----------------------------------------------------------------------------


@pytest.fixture
def secret_file(tmp_path):
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    return path


def test_without_credentials_there_is_no_account(load):
    assert load().accounts == {}


def test_the_default_account_comes_from_the_environment(load):
    environment = {"PIOPIY_APP_ID": "2222222", "PIOPIY_SECRET": SECRET}

    assert load(environment=environment).accounts == {"default": Account("default", 2222222, SECRET)}


def test_its_secret_can_come_from_a_file(load, secret_file):
    environment = {"PIOPIY_APP_ID": " 2222222 ", "PIOPIY_SECRET_FILE": str(secret_file)}

    assert load(environment=environment).accounts["default"] == Account("default", 2222222, SECRET)


def test_the_environment_beats_the_table_of_the_default_account(load, secret_file):
    table = ("[accounts.default]", "app_id = 1", f'secret_file = "{secret_file}"')

    assert load(*table).accounts["default"] == Account("default", 1, SECRET)
    assert load(*table, environment={"PIOPIY_APP_ID": "2"}).accounts["default"] == Account(
        "default", 2, SECRET
    )
    assert load(*table, environment={"PIOPIY_SECRET": "x"}).accounts["default"] == Account("default", 1, "x")


def test_the_variable_beats_the_file_that_another_variable_names(load, secret_file):
    environment = {"PIOPIY_APP_ID": "1", "PIOPIY_SECRET": "x", "PIOPIY_SECRET_FILE": str(secret_file)}

    assert load(environment=environment).accounts["default"].secret == "x"


def test_more_accounts_come_from_tables(load, secret_file):
    settings = load(
        "[accounts.sales]",
        "app_id = 1",
        f'secret_file = "{secret_file}"',
        "[accounts.support]",
        'app_id = "2"',
        'secret_env = "SUPPORT_SECRET"',
        environment={"SUPPORT_SECRET": f" {SECRET}\n", "PIOPIY_APP_ID": "3", "PIOPIY_SECRET": "x"},
    )

    assert settings.accounts == {
        "sales": Account("sales", 1, SECRET),
        "support": Account("support", 2, SECRET),
        "default": Account("default", 3, "x"),
    }


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"PIOPIY_APP_ID": "1"}, "has no secret"),
        ({"PIOPIY_SECRET": SECRET}, "app_id"),
        ({"PIOPIY_APP_ID": "my app", "PIOPIY_SECRET": SECRET}, "app_id"),
        ({"PIOPIY_APP_ID": "१", "PIOPIY_SECRET": SECRET}, "app_id"),
        ({"PIOPIY_APP_ID": "9" * 19, "PIOPIY_SECRET": SECRET}, "app_id"),
        ({"PIOPIY_APP_ID": "-1", "PIOPIY_SECRET": SECRET}, "app_id"),
        ({"PIOPIY_APP_ID": "1", "PIOPIY_SECRET_FILE": "/no/such/file"}, "/no/such/file cannot be read"),
        ({"PIOPIY_APP_ID": "1", "PIOPIY_SECRET_FILE": "~nobody-here/x"}, "~nobody-here/x cannot be read"),
    ],
)
def test_an_incomplete_account_is_an_error(problems, environment, words):
    (problem,) = problems(environment=environment)

    assert "account 'default'" in problem
    assert words in problem


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['secret_env = "NOT_SET"', "app_id = 1"], "NOT_SET is empty or not set"),
        (["app_id = 1"], "has no secret"),
        (["app_id = 1.5", 'secret_env = "SET"'], "app_id"),
        (["app_id = true", 'secret_env = "SET"'], "app_id"),
        (['secret_env = "SET"'], "app_id"),
        (["app_id = 1", 'secret_env = "SET"', "appid = 1"], "appid"),
    ],
)
def test_a_wrong_account_table_is_named(problems, lines, words):
    (problem,) = problems("[accounts.sales]", *lines, environment={"SET": SECRET})

    assert "account 'sales'" in problem
    assert words in problem


def test_every_unknown_setting_of_an_account_is_named(problems):
    lines = problems(
        "[accounts.sales]",
        "app_id = 1",
        'secret_env = "SET"',
        "one = 1",
        "two = 2",
        environment={"SET": SECRET},
    )

    assert "one" in " ".join(lines)
    assert "two" in " ".join(lines)


@pytest.mark.parametrize("line", ["accounts = 5", "accounts = []", "accounts.sales = 5"])
def test_accounts_must_be_tables(problems, line):
    assert problems(line)


def test_an_empty_or_unreadable_secret_file_is_an_error(problems, tmp_path):
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, words in (("empty", "is empty"), ("binary", "cannot be read"), ("", "cannot be read")):
        environment = {"PIOPIY_APP_ID": "1", "PIOPIY_SECRET_FILE": str(tmp_path / name)}
        (problem,) = problems(environment=environment)
        assert words in problem


def test_a_secret_in_the_toml_file_is_rejected_and_not_quoted(problems):
    words = problems("[accounts.sales]", "app_id = 1", f'secret = "{SECRET}"')

    assert "a secret must not be in this file" in " ".join(words)
    assert SECRET not in " ".join(words)


def test_no_message_repeats_a_secret_or_a_password(problems, secret_file):
    lines = problems(
        f'api_url = "https://user:{SECRET}@piopiy.telecmi.com/"',
        f'ping_url = "hc-ping.com/{SECRET}"',
        f'proxy = "user:{SECRET}@proxy:3128"',
        "workers = 0",
        "[accounts.default]",
        "app_id = 0",
        f'secret_file = "{secret_file}"',
        environment={"PIOPIY_SECRET": SECRET, "CDR_SYNC_DATABASE_URL": f"postgresql://user:{SECRET}@host/db"},
    )

    assert SECRET not in "\n".join(lines)
    assert len(lines) == 5


def test_no_repr_shows_a_secret(load):
    settings = load(
        environment={
            "PIOPIY_APP_ID": "1",
            "PIOPIY_SECRET": SECRET,
            "CDR_SYNC_DATABASE_URL": f"postgresql://user:{SECRET}@host/db",
            "CDR_SYNC_PING_URL": f"https://hc-ping.com/{SECRET}",
        }
    )
    shown = [settings, settings.accounts, settings.accounts["default"]]

    assert settings.accounts["default"].secret == SECRET
    assert SECRET not in " ".join(f"{each!r} {each!s}" for each in shown)


def test_a_secret_cannot_be_an_option(load):
    options = {"secret": SECRET, "piopiy_secret": SECRET, "accounts": {"default": SECRET}}

    assert load(**options).accounts == {}
