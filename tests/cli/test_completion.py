"""Shell completion, in a real bash that sources click's script."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
from pathlib import Path

import click
import pytest
from support.commands import ALL
from support.operators import CONSOLE_SCRIPT, PATIENCE

from etl.cli import completion
from etl.cli.options import error_kinds
from etl.db.idle import recent_labels, recent_runs

GUIDE = Path(__file__).parents[2] / "docs" / "operate.md"
# As bash calls the function when the user presses Tab.
PRESS = """
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
_cdr_sync_completion cdr-sync
printf '%s\\n' "${{COMPREPLY[@]}}" "-- $?"
"""


@pytest.fixture
def press_tab(new_operator):
    """Return what bash offers at the end of each command line; fail if it prints anything else."""

    def press(*lines, **environment):
        presses = (PRESS.format(words=" ".join([*shlex.split(line), "''"])) for line in lines)
        script = 'eval "$(_CDR_SYNC_COMPLETE=bash_source cdr-sync)"\ncompopt() { echo "compopt $*"; }\n'
        path = f"{Path(CONSOLE_SCRIPT).parent}:/usr/bin:/bin"
        done = subprocess.run(
            ["/bin/bash", "--norc", "-c", script + "".join(presses)],
            env=new_operator.whole_environment(PATH=path, **environment),
            cwd=new_operator.home,
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

        assert done.stderr == ""
        replies = [reply.split() for reply in done.stdout.split("-- 0\n")[:-1]]
        assert len(replies) == len(lines)
        return replies

    return press


def test_tab_offers_labels_runs_and_accounts(operator, press_tab):
    operator.type("enqueue", "answered-1", "--batch", "july")
    operator.type("enqueue", "answered-2", "--batch", "june")
    operator.type("sync", "--batch", "spring")
    operator.type("sync")
    batch, resume, show, account = press_tab(
        "cdr-sync sync --batch",
        "cdr-sync backfill --resume",
        "cdr-sync runs show",
        "cdr-sync fetch --account",
    )

    assert batch == resume == ["spring", "june", "july"]
    assert show == ["2", "1"]
    assert account == ["default"]


def test_tab_offers_words_that_need_no_database(press_tab, new_operator):
    state, only, kinds, file = press_tab(
        "cdr-sync requests list --state",
        "cdr-sync backfill --only",
        "cdr-sync requests retry --error-kind",
        "cdr-sync enqueue --from-file",
    )

    assert state == ["pending", "running", "done", "empty", "dead", "cancelled"]
    assert only == ["pending", "done", "empty", "dead", "all"]
    assert kinds == error_kinds()
    assert file == ["compopt", "-o", "default"]
    assert not new_operator.database.exists()


def test_the_last_of_several_states_is_completed_and_none_is_offered_twice():
    def offered(typed):
        return [item.value for item in completion.complete_listed(("done", "dead", "empty"), typed)]

    assert offered("d") == ["done", "dead"]
    assert offered("done,") == ["done,dead", "done,empty"]
    assert offered("empty,done,d") == ["empty,done,dead"]


def test_a_label_that_is_not_a_plain_word_in_a_shell_is_not_offered(operator, press_tab):
    for number, label in enumerate(("$(touch x)", "*", "two words", "-v", "a;b", "plain", "`id`", "a\tb")):
        operator.type("enqueue", f"answered-{number}", f"--batch={label}")
    (labels,) = press_tab("cdr-sync sync --batch")

    assert labels == ["plain"]


LOOKS = ("cdr-sync sync --batch", "cdr-sync runs show")


def test_without_a_database_nothing_is_offered_and_none_is_created(new_operator, press_tab):
    assert press_tab(*LOOKS) == [[], []]
    assert not new_operator.database.parent.exists()


def test_a_broken_database_offers_nothing(new_operator, press_tab):
    new_operator.database.parent.mkdir(parents=True)
    new_operator.database.write_text("no database" * 1000)

    assert press_tab(*LOOKS) == [[], []]


def test_wrong_settings_offer_nothing(operator, press_tab):
    operator.type("enqueue", "answered-1", "--batch", "july")

    assert press_tab(*LOOKS, CDR_SYNC_WORKERS="many") == [[], []]


def test_a_server_that_does_not_answer_offers_nothing(press_tab):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://cdr@127.0.0.1:{silent.getsockname()[1]}/cdr?connect_timeout=3600"

        assert press_tab("cdr-sync sync --batch", CDR_SYNC_DATABASE_URL=url) == [[]]


def test_labels_and_runs_are_found_in_every_database(database, database_url):
    database.enqueue("one", batch="july")
    database.enqueue("two", "three", batch="june")
    database.enqueue("four")

    assert recent_labels(database_url) == ["june", "july"]
    assert recent_runs(database_url) == []


@pytest.mark.parametrize(
    ("options", "completer"),
    [
        ({"--batch", "--resume"}, completion.complete_labels),
        ({"--account"}, completion.complete_accounts),
        ({"--config", "--from-file", "--metrics-file", "--output"}, completion.complete_files),
    ],
)
def test_options_of_one_kind_complete_alike_in_every_command(options, completer):
    found = [
        (path, option.opts[0], option._custom_shell_complete)
        for path, command in ALL
        for option in command.params
        if isinstance(option, click.Option) and options & set(option.opts)
    ]

    assert found
    assert [(path, name) for path, name, own in found if own is not completer] == []


def test_the_documentation_lists_all_error_kinds():
    _, _, section = GUIDE.read_text().partition("\n## Error kinds\n")
    documented = re.findall(r"^\| `(\w+)`", section.partition("\n## ")[0], re.MULTILINE)

    assert sorted(documented) == error_kinds()
