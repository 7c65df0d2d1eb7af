"""The secret appears nowhere, whatever the API echoes and however the settings are wrong."""

from __future__ import annotations

import json

import pytest
from support.builders import api_leg
from support.operators import finish

from etl.cli.main import cli

SECRET = "kXq7Zr2vNw9LmT4yHb6JcF8sPd3GaE5uQ1RoVi0B"
AWKWARD = 'Zr2v/Nw9+LmT4="yHb6\\JcF8é€sPd3'
FRAGMENT = 12  # characters: no output contains this much of a secret


def forms(secret):
    """The forms of a secret in a text: plain, and as JSON, Python and PHP escape it."""
    as_json = json.dumps(secret)[1:-1]
    return {
        secret,
        as_json,
        as_json.replace("/", "\\/"),
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1].replace("/", "\\/"),
        repr(secret)[1:-1],
    }


def leaks(secret, text, length=None):
    """Return the parts of a text that contain the secret, or `length` characters of it in a row."""
    found = []
    for form in forms(secret):
        size = length or len(form)
        parts = (form[start : start + size] for start in range(len(form) - size + 1))
        found += [part for part in parts if part in text]
    return found


def secret_of(question):
    return json.loads(question)["secret"]


def in_php(content):
    return json.dumps(content).replace("/", "\\/").encode()


LEG = api_leg()

# Answers of an API that echoes the request.
ECHOES = {
    "success": lambda q: (200, json.dumps({"code": 200, "count": 0, "cdr": [], "asked": q}).encode()),
    "a leg's unknown field": lambda q: (
        200,
        json.dumps({"code": 200, "count": 1, "cdr": [{**LEG, "app_secret": secret_of(q)}]}).encode(),
    ),
    "a leg's status": lambda q: (
        200,
        json.dumps({"code": 200, "count": 1, "cdr": [{**LEG, "status": secret_of(q)}]}).encode(),
    ),
    "a leg's number": lambda q: (
        200,
        json.dumps({"code": 200, "count": 1, "cdr": [{**LEG, "to": secret_of(q)}]}).encode(),
    ),
    "a malformed field": lambda q: (
        200,
        json.dumps({"code": 200, "count": 1, "cdr": [{**LEG, "rate": secret_of(q)}]}).encode(),
    ),
    "code 400": lambda q: (200, json.dumps({"code": 400, "msg": f"Bad request: {q}"}).encode()),
    "code 404": lambda q: (200, json.dumps({"code": 404, "msg": f"Invalid secret {secret_of(q)}"}).encode()),
    "code 500": lambda q: (
        200,
        json.dumps({"code": 500, "msg": f"Cannot log in as {secret_of(q)}"}).encode(),
    ),
    "HTTP 500 in JSON": lambda q: (500, json.dumps({"msg": {"request": json.loads(q)}}).encode()),
    "HTTP 500 in text": lambda q: (500, b"You sent " + q.encode()),
    "HTTP 400 in text": lambda q: (400, q.encode()),
    "no JSON": lambda q: (200, b"<pre>" + q.encode()),
    "a message that is cut": lambda q: (
        200,
        json.dumps({"code": 400, "msg": "x" * 180 + secret_of(q)}).encode(),
    ),
    "the question itself": lambda q: (200, q.encode()),
    "another coding": lambda q: (200, in_php({"code": 400, "msg": secret_of(q)})),
    "another coding of success": lambda q: (
        200,
        in_php({"code": 200, "count": 0, "cdr": [], "s": secret_of(q)}),
    ),
    "another coding of a leg": lambda q: (
        200,
        in_php({"code": 200, "count": 1, "cdr": [{**LEG, "app_secret": secret_of(q)}]}),
    ),
}


def everything_readable(operator):
    """Return everything readable after some runs, by place: outputs, columns, and the bytes of files."""
    texts = {}
    for words in (
        ("-v", "--log-format", "json", "sync", "--json"),
        ("-v", "--log-format", "console", "sync"),
        ("-v", "fetch", "x"),
        ("doctor",),
        ("doctor", "--json"),
        ("status",),
        ("runs", "show", 1),
        ("requests", "show", "id0", "--json"),
    ):
        operator.rows(
            "UPDATE cdr_requests SET run_after = '2000-01-01 00:00:00.000000' WHERE state = 'pending'"
        )
        result = operator.type(*words)
        assert result.exit_code != 2, result.output
        texts[" ".join(map(str, words))] = result.output
    for table in ("cdr_requests", "call_legs", "cdr_responses", "sync_runs", "api_accounts"):
        for (column,) in operator.rows("SELECT name FROM pragma_table_info(?)", table):
            values = operator.rows(f"SELECT CAST({column} AS TEXT) FROM {table}")  # noqa: S608 (fixed names)
            texts[f"{table}.{column}"] = "\n".join(value for (value,) in values if value)
    files = (file for file in operator.home.rglob("*") if file.is_file())
    return texts | {file.name: file.read_bytes().decode(errors="replace") for file in files}


@pytest.mark.parametrize("secret", [SECRET, AWKWARD], ids=["plain", "awkward"])
@pytest.mark.parametrize("echo", ECHOES)
def test_a_secret_that_the_api_echoes_appears_nowhere(operator, answering, echo, secret):
    operator.environment |= {"PIOPIY_SECRET": secret, "CDR_SYNC_API_URL": answering(ECHOES[echo])}
    operator.environment["CDR_SYNC_TRIES"] = "1"
    operator.type("enqueue", *(f"id{number}" for number in range(6)))
    texts = everything_readable(operator)

    assert [place for place, text in texts.items() if leaks(secret, text)] == []


@pytest.mark.parametrize("echo", ["HTTP 500 in text", "HTTP 400 in text", "no JSON", "a message that is cut"])
def test_not_even_the_beginning_of_a_secret_appears(operator, answering, echo):
    operator.environment |= {"PIOPIY_SECRET": SECRET, "CDR_SYNC_API_URL": answering(ECHOES[echo])}
    operator.environment["CDR_SYNC_TRIES"] = "1"
    operator.type("enqueue", *(f"id{number}" for number in range(6)))
    texts = everything_readable(operator)

    assert [place for place, text in texts.items() if leaks(SECRET, text, FRAGMENT)] == []


def test_a_successful_run_does_not_reveal_the_secret(operator, simulator):
    simulator.secret = operator.environment["PIOPIY_SECRET"] = SECRET
    operator.type("enqueue", "answered-1", "malformed_money-1", "rejected-1", "id0")
    texts = everything_readable(operator)

    assert simulator.total_calls
    assert [place for place, text in texts.items() if leaks(SECRET, text, FRAGMENT)] == []


@pytest.mark.parametrize("table", ["call_legs", "cdr_responses", "cdr_requests"])
def test_a_crash_reports_its_position_but_no_values(operator, simulator, table):
    simulator.secret = operator.environment["PIOPIY_SECRET"] = SECRET
    operator.type("enqueue", "answered-1")
    if table == "cdr_requests":
        operator.rows("DROP VIEW IF EXISTS calls")
    operator.rows(f"DROP TABLE {table}")
    finished = operator.run("-v", "sync")

    assert finished.code == 1
    assert leaks(SECRET, finished.all, FRAGMENT) == []
    assert "answered-1" not in finished.all
    assert "etl/" in finished.stderr


def test_a_secret_that_http_cannot_send_is_not_a_crash(operator):
    operator.environment["PIOPIY_SECRET"] = "\udcff" + SECRET
    operator.type("enqueue", "answered-1")
    finished = operator.run("sync")

    assert leaks(SECRET, finished.all, FRAGMENT) == []
    assert "Traceback" not in finished.all


@pytest.mark.parametrize(
    "settings",
    [
        {"PIOPIY_APP_ID": SECRET},
        {"PIOPIY_APP_ID": ""},
        {"CDR_SYNC_API_URL": f"https://me:{SECRET}@example.com/"},
        {"CDR_SYNC_PING_URL": f"ftp://example.com/{SECRET}"},
        {"CDR_SYNC_DATABASE_URL": f"postgresql://me:{SECRET}@127.0.0.1:9/x"},
        {"CDR_SYNC_DATABASE_URL": f"mysql://me:{SECRET}@127.0.0.1:9/x"},
        {"CDR_SYNC_DATABASE_URL": f"nonsense://me:{SECRET}@127.0.0.1/x"},
        {"CDR_SYNC_DATABASE_URL": f"me:{SECRET}@127.0.0.1/x"},
        {"CDR_SYNC_WORKERS": "0"},
    ],
    ids=lambda settings: "=".join(next(iter(settings.items()))).replace(SECRET, "secret"),
)
@pytest.mark.parametrize("words", [("-v", "sync"), ("status",), ("db", "upgrade"), ("doctor",)], ids=" ".join)
def test_wrong_settings_are_reported_without_the_secret(operator, settings, words):
    operator.environment["PIOPIY_SECRET"] = SECRET
    result = operator.type(*words, **settings)

    assert result.exit_code in (69, 78) or "PING" in str(settings)
    assert leaks(SECRET, result.output, FRAGMENT) == []


@pytest.mark.parametrize(
    "line",
    [f'secret = "{SECRET}"', f"secret_file = {SECRET}", f'secret_env = "{SECRET}"', f'app_id = "{SECRET}"'],
    ids=["secret", "no TOML", "secret_env", "app_id"],
)
def test_a_secret_in_the_wrong_place_of_the_file_is_not_quoted(operator, line):
    del operator.environment["PIOPIY_APP_ID"], operator.environment["PIOPIY_SECRET"]
    file = operator.home / "settings.toml"
    file.write_text(f"[accounts.default]\n{line}\n")
    result = operator.type("--config", file, "sync")

    assert result.exit_code == 78
    assert leaks(SECRET, result.output, FRAGMENT) == []


def test_a_secret_file_is_read_without_its_line_end_and_named_if_it_cannot_be_read(operator, simulator):
    simulator.secret = SECRET
    file = operator.home / "secret"
    file.write_text(f"{SECRET}\n")
    del operator.environment["PIOPIY_SECRET"]
    good = operator.type("fetch", "answered-1", PIOPIY_SECRET_FILE=str(file))
    bad = operator.type("fetch", "answered-1", PIOPIY_SECRET_FILE=str(file.with_name("gone")))

    assert good.exit_code == 0
    assert bad.exit_code == 78
    assert str(file.with_name("gone")) in bad.stderr


def test_no_option_accepts_a_secret():
    names = [name for param in cli.params for name in param.opts]
    for command in (cli.get_command(None, name) for name in cli.list_commands(None)):
        names += [name for param in command.params for name in param.opts]

    assert [name for name in names if "secret" in name or "password" in name or "token" in name] == []


def test_the_process_list_shows_no_secret(operator, simulator):
    simulator.secret = operator.environment["PIOPIY_SECRET"] = SECRET
    simulator.latency = 0.5
    operator.type("enqueue", "answered-1")
    process = operator.start("sync")
    with open(f"/proc/{process.pid}/cmdline", "rb") as file:  # noqa: PTH123 (no file in the usual sense)
        shown = file.read().decode()
    finish(process)

    assert leaks(SECRET, shown) == []
