"""What a user sees on a terminal. The terminals here are real pseudo-terminals."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys

import pytest
from support.operators import CONSOLE_SCRIPT, Operator, wait_until
from support.terminals import Terminal

from etl.simulator.scenarios import make_request_id

WIDE, USUAL, NARROW = 120, 80, 40
OUTCOMES = (
    r"(\d[\d,]*) (?:done|without legs|not final yet|to be retried|given back|dead|taken over by others)"
)


@pytest.fixture
def at_terminal(new_operator):
    """Return a function that runs a command on a terminal of some width."""
    with contextlib.ExitStack() as open_terminals:

        def sit_down(*words, width=WIDE, program=CONSOLE_SCRIPT, **environment):
            terminal = Terminal(new_operator, (program, *words), width=width, **environment)
            open_terminals.callback(terminal.child.close, force=True)
            return terminal

        yield sit_down


def enqueue_some(operator, count=60):
    request_ids = [*(make_request_id(number) for number in range(count)), "none-1", "in_progress-1"]
    operator.type("enqueue", *request_ids)
    return len(request_ids)


def summary_of(text):
    """Return the claims of a summary, and its outcomes."""
    found = re.search(r"Run \d+: (\d[\d,]*) claims? = (.*)", text)
    assert found, text[-500:]
    return int(found[1].replace(",", "")), [int(n.replace(",", "")) for n in re.findall(OUTCOMES, found[2])]


def test_a_run_shows_a_bar_and_a_summary_that_adds_up(operator, simulator, at_terminal):
    simulator.latency = 0.05
    count = enqueue_some(operator)
    terminal = at_terminal("sync").finish()
    shown = [int(settled) for settled in re.findall(rf"(\d+)/{count}", terminal.text)]
    claims, outcomes = summary_of(terminal.text)

    assert terminal.code == 0
    assert "━" in terminal.text
    assert shown == sorted(shown)
    assert len(set(shown)) > 3
    assert shown[-1] == count
    assert claims == count == sum(outcomes)
    assert len(outcomes) == 2
    assert f"{simulator.total_calls} API calls" in terminal.text


def test_a_backfill_shows_a_bar_with_speed_and_eta_and_says_how_to_resume(operator, simulator, at_terminal):
    simulator.latency = 0.05
    count = enqueue_some(operator, 120)
    terminal = at_terminal("backfill", "--only", "all", "--batch", "july").finish()
    claims, outcomes = summary_of(terminal.text)

    assert terminal.code == 0
    assert re.search(rf"backfill ━+.* \d+/{count} +\d+/s +\d+:\d\d", terminal.text)
    assert f"{count}/{count}" in terminal.text
    assert "To resume after an interruption: `cdr-sync backfill --resume july`" in terminal.text
    assert claims == count == sum(outcomes)
    assert '"event"' not in terminal.text


@pytest.mark.usefixtures("operator")
def test_reprocess_shows_its_progress_and_a_summary(operator, at_terminal):
    operator.type("enqueue", "answered-1")
    operator.type("sync", CDR_SYNC_SETTLE="0")
    terminal = at_terminal("reprocess").finish()

    assert terminal.code == 0
    assert "reprocess: 1 request read, 0 changed" in terminal.text
    assert "Run 2: 1 request with an archived answer, 0 changed" in terminal.lines


@pytest.mark.usefixtures("operator")
def test_a_run_with_nothing_due_shows_no_bar_and_says_so(at_terminal):
    terminal = at_terminal("sync").finish()

    assert terminal.code == 0
    assert "nothing was due" in terminal.text
    assert "0/0" not in terminal.text


def test_a_run_for_an_unknown_label_says_so(operator, at_terminal):
    operator.type("enqueue", "answered-1", "--batch", "october")
    terminal = at_terminal("sync", "--batch", "octobre").finish()

    assert terminal.code == 0
    assert "No request has the label 'octobre'. Did you mean 'october'?" in terminal.text


def test_the_bar_counts_only_requests_that_this_run_can_fetch(operator, at_terminal):
    operator.type("enqueue", "answered-1", "answered-2")
    operator.type("enqueue", "answered-3", "--account", "nobody")
    terminal = at_terminal("sync").finish()

    assert "2/2" in terminal.text
    assert "/3" not in terminal.text


def test_json_goes_to_a_file_while_the_bar_stays_on_the_terminal(operator, at_terminal):
    count = enqueue_some(operator)
    terminal = at_terminal("-c", f"{CONSOLE_SCRIPT} sync --json > document.json", program="/bin/sh").finish()
    document = json.loads((operator.home / "document.json").read_text())

    assert terminal.code == 0
    assert document["claimed"] == count
    assert f"{count}/{count}" in terminal.text
    assert "claimed" not in terminal.text


def test_with_stderr_redirected_the_summary_is_shown_without_a_bar(operator, at_terminal):
    enqueue_some(operator)
    terminal = at_terminal("-c", f"{CONSOLE_SCRIPT} sync 2> log", program="/bin/sh").finish()

    assert terminal.code == 0
    assert summary_of(terminal.text)[0] == 62
    assert "━" not in terminal.text
    assert (operator.home / "log").read_text() == ""


def test_log_lines_are_sentences_on_a_terminal(operator, at_terminal):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    terminal = at_terminal("sync").finish()
    (line,) = [line for line in terminal.lines if "became dead" in line]

    assert terminal.code == 65
    assert "error" in line
    assert "1 request became dead, malformed_money-1 (malformed: `cdr[0].rate` " in line
    assert "see `cdr-sync requests list --state dead`" in line
    assert "{" not in line
    assert len(summary_of(terminal.text)[1]) == 2


def test_log_lines_are_json_when_not_on_a_terminal(operator):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    line = json.loads(operator.type("sync").stderr)

    assert line["level"] == "error"
    assert line["run"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])


def test_the_log_format_can_be_chosen_on_and_off_a_terminal(operator, at_terminal):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    off_terminal = operator.type("--log-format", "console", "sync")
    operator.type("enqueue", "malformed_money-2")
    terminal = at_terminal("--log-format", "json", "sync").finish()
    (line,) = [line for line in terminal.lines if "became dead" in line]

    assert "became dead" in off_terminal.stderr
    assert "{" not in off_terminal.stderr
    assert "\x1b" not in off_terminal.stderr
    assert json.loads(line)["level"] == "error"


def test_no_color_turns_colours_off(operator, at_terminal):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    terminal = at_terminal("sync", NO_COLOR="1").finish()
    colours = re.findall(r"\x1b\[[0-9;]*3[0-7][0-9;]*m", terminal.raw)

    assert colours == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo as a new user sees it, on a terminal of 80 columns."""
    someone = Operator(tmp_path_factory.mktemp("demo"))
    terminal = Terminal(someone, (CONSOLE_SCRIPT, "demo"), width=USUAL).finish()
    return someone, terminal


def test_the_demo_shows_a_bar_and_numbers_that_add_up(demo):
    _, terminal = demo
    (requests,) = re.findall(r"Requests: (\d+) = (.*)", terminal.text)
    (claims,) = re.findall(r"Claims: (\d+) = (.*)", terminal.text)

    assert terminal.code == 0
    assert "━" in terminal.text
    assert int(requests[0]) == sum(map(int, re.findall(r"(\d+) \w", requests[1]))) == 300
    assert int(claims[0]) == sum(map(int, re.findall(r"(\d+) \w", claims[1])))


def test_the_demo_ends_with_its_database_and_commands_to_try_next(demo):
    someone, terminal = demo
    end = terminal.text.rpartition("The database is ")[2]
    typed = [line.split() for line in end.splitlines() if "cdr-sync --database-url" in line]
    results = [someone.type(*words[1:]) for words in typed]

    assert end.split()[0].rstrip(".").endswith(".sqlite3")
    assert len(typed) >= 2
    assert [result.exit_code for result in results] == [0] * len(typed)
    assert "dead" in results[-1].stdout


@pytest.mark.parametrize(
    "word", ["request_id", "billed_rate_total", "answered", "+919200000000", "2021-11-16"]
)
def test_the_rows_of_the_demo_can_be_read_on_80_columns(demo, word):
    _, terminal = demo
    rows = terminal.text.rpartition("calls: one row per call")[2].rpartition("The database is")[0]

    assert word in rows


def test_a_request_id_can_be_copied_from_a_list_on_80_columns(operator, at_terminal):
    request_id = make_request_id(1)
    operator.type("enqueue", request_id)
    terminal = at_terminal("requests", "list", width=USUAL).finish()

    assert request_id in terminal.text
    assert "pending" in terminal.text


def test_the_bar_fits_a_narrow_terminal(operator, at_terminal):
    enqueue_some(operator)
    terminal = at_terminal("sync", width=NARROW).finish()
    bars = [line for line in terminal.lines if "━" in line]

    assert terminal.code == 0
    assert bars
    assert max(len(line) for line in bars) <= NARROW
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize(
    "words",
    [("status",), ("runs",), ("requests", "list"), ("requests", "show", "none-1")],
    ids=" ".join,
)
def test_tables_fit_a_narrow_terminal_and_can_be_read(operator, at_terminal, words):
    operator.type("enqueue", "answered-1", "none-1")
    operator.type("sync")
    terminal = at_terminal(*words, width=NARROW).finish()
    tabled = [line for line in terminal.lines if "─" in line]

    assert terminal.code == 0
    assert all(len(line) <= NARROW for line in tabled)
    assert "pending" in terminal.text or "ok" in terminal.text


def test_a_table_as_wide_as_the_terminal_stays_a_table(operator, at_terminal):
    operator.type("enqueue", "answered-1", "none-1")
    operator.type("sync")
    width = max(len(line) for line in operator.type("runs").stdout.splitlines())
    fitting, broken = (at_terminal("runs", width=one).finish().text for one in (width, width - 1))

    assert ("─" in fitting, "─" in broken) == (True, False)


def test_a_list_of_requests_leaves_out_the_columns_that_do_not_fit(operator, at_terminal):
    request_ids = [make_request_id(number) for number in range(3)]
    operator.type("enqueue", *request_ids)
    terminal = at_terminal("requests", "list", width=80).finish()
    lines = terminal.text.splitlines()

    assert [line.split()[:2] for line in lines[2:5]] == [[name, "pending"] for name in reversed(request_ids)]
    assert lines[0].split() == ["request_id", "state", "last_error_kind", "attempts"]
    assert (
        lines[5] == "Not shown: leg_count, updated_at, run_after, account. Widen the terminal, or use --json."
    )


def test_ctrl_c_drains_the_run_and_restores_the_terminal(operator, simulator, at_terminal):
    simulator.latency = 0.05
    operator.type("enqueue", *(make_request_id(number) for number in range(400)))
    terminal = at_terminal("sync")
    wait_until(lambda: simulator.total_calls >= 40)
    terminal.wait_for("/400")
    terminal.child.sendintr()
    terminal.finish()
    claims, outcomes = summary_of(terminal.text)

    assert terminal.code == 130
    assert "Traceback" not in terminal.text
    assert terminal.raw.count("\x1b[?25h") == terminal.raw.count("\x1b[?25l")
    assert claims == sum(outcomes) < 400
    assert set(operator.states()) == {"done", "pending"}
    assert max(simulator.calls.values()) == 1


def test_a_second_ctrl_c_exits_at_once(operator, simulator, at_terminal):
    operator.type("enqueue", *(f"answered-{number}" for number in range(20)))
    simulator.outage = "stall_headers"
    terminal = at_terminal("sync")
    wait_until(lambda: simulator.total_calls)
    terminal.child.sendintr()
    wait_until(lambda: "^C" in terminal.raw or terminal.wait_for(r"\^C") is None)
    terminal.child.sendintr()
    terminal.finish()

    assert terminal.code == 130
    assert "Traceback" not in terminal.text
    assert operator.rows("SELECT DISTINCT state, attempts FROM cdr_requests") == [("pending", 0)]


def test_a_terminal_that_is_closed_ends_the_run(operator, simulator, at_terminal):
    simulator.latency = 0.05
    operator.type("enqueue", *(make_request_id(number) for number in range(400)))
    terminal = at_terminal("sync")
    wait_until(lambda: simulator.total_calls >= 40)
    terminal.child.close(force=False)
    wait_until(lambda: not terminal.child.isalive())

    assert terminal.child.signalstatus in (None, signal.SIGHUP)
    assert max(simulator.calls.values()) == 1


def test_ctrl_c_ends_the_simulator_without_a_traceback(at_terminal):
    terminal = at_terminal("simulator", "--port", "0")
    terminal.wait_for("Ctrl-C")
    terminal.child.sendintr()
    terminal.finish()

    assert "CDR_SYNC_API_URL=http://127.0.0.1:" in terminal.text
    assert terminal.code in (0, 130)
    assert "Traceback" not in terminal.text


def test_the_module_works_on_a_terminal_too(operator, at_terminal):
    enqueue_some(operator, 5)
    terminal = at_terminal("-m", "etl", "sync", program=sys.executable).finish()

    assert terminal.code == 0
    assert summary_of(terminal.text)[0] == 7


@pytest.mark.usefixtures("operator")
def test_the_doctor_uses_colours_on_a_terminal_unless_no_color_is_set(at_terminal):
    coloured, plain = at_terminal("doctor").finish(), at_terminal("doctor", NO_COLOR="1").finish()

    assert coloured.raw.count("\x1b[32mok") == coloured.text.count("ok  ") == 9
    assert "\x1b" not in plain.raw
    assert [line.split(":")[0] for line in plain.lines] == [line.split(":")[0] for line in coloured.lines]


@pytest.mark.usefixtures("operator")
def test_an_export_reports_its_rows_and_does_not_write_parquet_to_a_terminal(at_terminal):
    file, table, columns = (
        at_terminal("export", "legs", *options).finish()
        for options in (("--output", "legs.csv"), (), ("--format", "parquet"))
    )

    assert file.lines[0] == "0 legs written to legs.csv"
    assert table.lines[0].startswith("account,request_id,leg,")
    assert "written" not in table.text
    assert columns.code == 2
    assert "Parquet cannot be shown on a terminal. Add --output FILE" in columns.text
