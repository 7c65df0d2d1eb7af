"""Names, periods and kinds on a command line that would select nothing are refused or reported."""

from __future__ import annotations

import pytest


@pytest.fixture
def queue(operator):
    """An operator with a request in a batch, and one of an account without credentials."""
    operator.type("enqueue", "answered-1", "--batch", "october")
    operator.type("enqueue", "answered-2", "--account", "sales")
    return operator


def error_line(result):
    """The one line that reports a mistake."""
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
    assert error_line(result).startswith("cdr-sync: --since 2026-11-01 ")
    assert "is not before --until" in error_line(result)
    assert everything_in(queue) == before


def test_one_end_of_a_period_is_enough(queue):
    for option in ("--since", "--until"):
        assert queue.type("export", "legs", option, "2026-11-01").exit_code == 0


# Error kinds


@pytest.mark.parametrize("words", [["backfill"], ["requests", "list"], ["requests", "retry"]], ids=" ".join)
def test_an_unknown_error_kind_is_refused_with_the_known_ones(queue, words):
    before = everything_in(queue)
    result = queue.type(*words, "--error-kind", "timeuot")

    assert result.exit_code == 2
    assert "'timeuot' is not one of 'connection', 'lease_expired', " in error_line(result)
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
def test_an_unknown_account_is_refused_with_the_known_ones(queue, words):
    before = everything_in(queue)
    result = queue.type(*words, "--account", "slaes")

    assert result.exit_code == 2
    assert error_line(result) == "cdr-sync: There is no account 'slaes'. Known accounts: default, sales"
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
def test_an_unused_label_is_refused_with_labels_of_similar_spelling(queue, words):
    before = everything_in(queue)
    alike, unlike = queue.type(*words, "octobre"), queue.type(*words, "xyz")

    assert (alike.exit_code, unlike.exit_code) == (2, 2)
    assert error_line(alike) == "cdr-sync: No request has the label 'octobre'. Did you mean 'october'?"
    assert error_line(unlike) == "cdr-sync: No request has the label 'xyz'"
    assert everything_in(queue) == before


def test_a_backfill_may_give_a_new_label(queue):
    assert queue.type("backfill", "--only", "pending", "--batch", "november", "--no-run").exit_code == 0


def test_a_run_accepts_an_unused_label_and_its_dry_run_warns(queue):
    run, look = (
        queue.type("sync", "--batch", "octobre"),
        queue.type("sync", "--batch", "octobre", "--dry-run"),
    )

    assert run.exit_code == look.exit_code == 0
    assert "octobre" not in run.output
    assert look.stdout == "0 requests due\n"
    assert look.stderr == "cdr-sync: No request has the label 'octobre'. Did you mean 'october'?\n"


@pytest.mark.parametrize(
    "words", [["enqueue", "one"], ["sync"], ["backfill", "one"], ["requests", "list"]], ids=" ".join
)
@pytest.mark.parametrize(("option", "longest"), [("--account", 64), ("--batch", 255)])
def test_a_name_must_not_be_empty_or_longer_than_its_column(queue, words, option, longest):
    before = everything_in(queue)
    empty, long = queue.type(*words, option, ""), queue.type(*words, option, "x" * (longest + 1))

    assert (empty.exit_code, long.exit_code) == (2, 2)
    assert f"'{option}': it has 0 characters. Use 1 to {longest}" in error_line(empty)
    assert f"it has {longest + 1} characters" in error_line(long)
    assert everything_in(queue) == before


# Requests of accounts that are not configured here


@pytest.mark.parametrize("words", [["enqueue"], ["backfill", "--no-run"]], ids=" ".join)
def test_enqueuing_for_an_account_without_credentials_warns_with_the_command_that_cancels(queue, words):
    warned = queue.type(*words, "answered-3", "answered-4", "--account", "slaes")
    (line,) = warned.stderr.splitlines()[-1:]
    again = queue.type("enqueue", "answered-3", "--account", "slaes")
    remedy = line.partition(": `cdr-sync ")[2].partition("`")[0]
    dry = queue.type(*remedy.split(), "--dry-run")
    undone = queue.type(*remedy.split())

    assert warned.exit_code == 0
    assert "No credentials are configured for account 'slaes', only for default. Add [accounts.slaes]" in line
    assert again.stderr == ""
    assert "2 requests would be cancelled (2 pending)" in dry.stdout
    assert "2 requests cancelled (2 pending)" in undone.stdout
    assert queue.rows("SELECT account, state FROM cdr_requests ORDER BY id") == [
        ("default", "pending"),
        ("sales", "pending"),
        ("slaes", "cancelled"),
        ("slaes", "cancelled"),
    ]


def test_without_any_credentials_there_is_no_warning(queue):
    for name in ("PIOPIY_APP_ID", "PIOPIY_SECRET"):
        del queue.environment[name]

    assert queue.type("enqueue", "answered-3", "--account", "support").stderr == ""
