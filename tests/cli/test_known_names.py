"""What somebody names or bounds on a command line and selects nothing: told, and never taken for done."""

from __future__ import annotations

import pytest


@pytest.fixture
def queue(operator):
    """An operator with a request in a batch, and one of an account without credentials."""
    operator.type("enqueue", "answered-1", "--batch", "october")
    operator.type("enqueue", "answered-2", "--account", "sales")
    return operator


def told(result):
    """Give the one line that a person is told about a mistake."""
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("Usage: ", "Try '"))]
    (line,) = filter(None, lines)
    assert result.stdout == ""
    return line


def everything_in(operator):
    return [operator.rows(f"SELECT * FROM {table}") for table in ("cdr_requests", "sync_runs")]  # noqa: S608 (our own words)


# Periods


@pytest.mark.parametrize("words", [["backfill"], ["reprocess"], ["export", "legs"], ["report"]], ids=" ".join)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("since", "until"),
    [("2026-11-01", "2026-10-01"), ("2026-11-01", "2026-11-01"), ("2026-11-01T05:30+05:30",) * 2],
)
def test_a_period_that_does_not_end_after_it_begins_is_refused(queue, words, since, until, turned):
    before = everything_in(queue)
    options = ["--since", since, "--until", until]
    result = queue.type(*words, *(options[2:] + options[:2] if turned else options))

    assert result.exit_code == 2
    assert told(result).startswith("cdr-sync: --since 2026-11-01 ")
    assert "is not before --until" in told(result)
    assert everything_in(queue) == before


def test_one_end_of_a_period_is_enough(queue):
    for option in ("--since", "--until"):
        assert queue.type("export", "legs", option, "2026-11-01").exit_code == 0


# Kinds of error


@pytest.mark.parametrize("words", [["backfill"], ["requests", "list"], ["requests", "retry"]], ids=" ".join)
def test_a_kind_of_error_that_there_is_none_of_is_refused_with_those_there_are(queue, words):
    before = everything_in(queue)
    result = queue.type(*words, "--error-kind", "timeuot")

    assert result.exit_code == 2
    assert "'timeuot' is not one of 'connection', 'lease_expired', " in told(result)
    assert everything_in(queue) == before


# Accounts and labels

LOOKS = [
    ["sync", "--dry-run"],
    ["backfill", "--only", "all", "--dry-run"],
    ["backfill", "--only", "all", "--no-run"],
    ["requests", "list"],
    ["requests", "show", "answered-1"],
    ["requests", "retry", "--all-dead"],
    ["requests", "cancel", "--all-pending"],
    ["reprocess"],
    ["export", "calls"],
]


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_an_account_that_nobody_knows_is_refused_with_those_there_are(queue, words):
    before = everything_in(queue)
    result = queue.type(*words, "--account", "slaes")

    assert result.exit_code == 2
    assert told(result) == "cdr-sync: No account is called 'slaes': there is default, sales"
    assert everything_in(queue) == before


@pytest.mark.parametrize("words", [words for words in LOOKS if "show" not in words], ids=" ".join)
def test_an_account_with_requests_or_with_credentials_is_known(queue, words):
    queue.rows("DELETE FROM cdr_requests WHERE account = 'default'")

    assert [queue.type(*words, "--account", name).exit_code for name in ("default", "sales")] == [0, 0]


@pytest.mark.parametrize(
    "words",
    [
        ["backfill", "--batch"],
        ["backfill", "--resume"],
        ["requests", "list", "--batch"],
        ["requests", "retry", "--all-dead", "--batch"],
        ["requests", "cancel", "--all-pending", "--batch"],
    ],
    ids=" ".join,
)
def test_a_label_that_no_request_has_is_refused_with_those_spelled_alike(queue, words):
    before = everything_in(queue)
    alike, strange = queue.type(*words, "octobre"), queue.type(*words, "xyz")

    assert (alike.exit_code, strange.exit_code) == (2, 2)
    assert told(alike) == "cdr-sync: No request has the label 'octobre': did you mean 'october'?"
    assert told(strange) == "cdr-sync: No request has the label 'xyz'"
    assert everything_in(queue) == before


def test_a_backfill_gives_a_label_that_is_new(queue):
    assert queue.type("backfill", "--only", "pending", "--batch", "november", "--no-run").exit_code == 0


def test_a_run_for_a_label_that_may_still_come_is_no_mistake_and_a_look_at_it_says_so(queue):
    run, look = (
        queue.type("sync", "--batch", "octobre"),
        queue.type("sync", "--batch", "octobre", "--dry-run"),
    )

    assert run.exit_code == look.exit_code == 0
    assert "octobre" not in run.output
    assert look.stdout == "0 requests due\n"
    assert look.stderr == "cdr-sync: No request has the label 'octobre': did you mean 'october'?\n"


@pytest.mark.parametrize(
    "words", [["enqueue", "one"], ["sync"], ["backfill", "one"], ["requests", "list"]], ids=" ".join
)
@pytest.mark.parametrize(("option", "longest"), [("--account", 64), ("--batch", 255)])
def test_a_name_is_neither_empty_nor_longer_than_its_column(queue, words, option, longest):
    before = everything_in(queue)
    empty, long = queue.type(*words, option, ""), queue.type(*words, option, "x" * (longest + 1))

    assert (empty.exit_code, long.exit_code) == (2, 2)
    assert f"'{option}': it has 0 characters, where 1 to {longest} can be" in told(empty)
    assert f"it has {longest + 1} characters" in told(long)
    assert everything_in(queue) == before


# Requests that nobody here asks for


@pytest.mark.parametrize("words", [["enqueue"], ["backfill", "--no-run"]], ids=" ".join)
def test_what_is_enqueued_for_an_account_without_credentials_is_told_and_can_be_taken_back(queue, words):
    warned = queue.type(*words, "answered-3", "answered-4", "--account", "slaes")
    (line,) = warned.stderr.splitlines()[-1:]
    again = queue.type("enqueue", "answered-3", "--account", "slaes")
    remedy = line.partition("by `cdr-sync ")[2].partition("`")[0]
    dry = queue.type(*remedy.split(), "--dry-run")
    undone = queue.type(*remedy.split())

    assert warned.exit_code == 0
    assert "no credentials for account 'slaes' here, but for default: add [accounts.slaes]" in line
    assert again.stderr == ""
    assert "2 requests would be cancelled (2 pending)" in dry.stdout
    assert "2 requests cancelled (2 pending)" in undone.stdout
    assert queue.rows("SELECT account, state FROM cdr_requests ORDER BY id") == [
        ("default", "pending"),
        ("sales", "pending"),
        ("slaes", "cancelled"),
        ("slaes", "cancelled"),
    ]


def test_where_there_are_no_credentials_at_all_others_ask_and_nothing_is_told(queue):
    for name in ("PIOPIY_APP_ID", "PIOPIY_SECRET"):
        del queue.environment[name]

    assert queue.type("enqueue", "answered-3", "--account", "support").stderr == ""
