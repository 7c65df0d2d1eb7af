"""The manual pages: up to date, complete, with examples that work, and valid troff."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from support.commands import ALL
from support.operators import PATIENCE
from support.servers import do_without
from support.tools import parse_command

from etl.settings import SETTING_NAMES, environment_name

MAN = Path(__file__).parents[2] / "man"
# What a terminal shows, and what is typed: hyphen, minus sign, and both quotation marks.
TYPED = str.maketrans("\u2010\u2212\u2018\u2019", "--''")
PAGES = sorted((MAN / "man1").glob("*.1"))


@pytest.fixture(scope="module")
def generate():
    """The script that writes the pages."""
    spec = importlib.util.spec_from_file_location("generate", MAN / "generate.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture(scope="module")
def troff():
    """Return what a page looks like at a terminal without bold or colours, and the warnings of groff."""
    program = shutil.which("groff")
    if program is None:
        do_without("no groff: run `apt-get install groff-base`")

    def show(*pages):
        words = [program, "-man", "-Kutf8", "-ww", "-Tutf8", "-P-cbou", "-rLL=200n", "-rHY=0"]
        command = [*words, *map(str, pages)]
        done = subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE)
        return done.stdout.decode().translate(TYPED), done.stderr.decode()

    return show


@pytest.fixture(scope="module")
def shown(troff):
    """The text of every page in one line, by the name of its command."""
    return {path.stem: " ".join(troff(path)[0].split()) for path in PAGES}


def test_the_pages_are_up_to_date(generate):
    assert {path.name: path.read_text() for path in PAGES} == generate.pages(), "run `make docs`"


def test_every_command_has_examples_that_it_accepts(generate):
    assert set(generate.EXAMPLES) == {"-".join(("cdr-sync", *path)) for path, _ in ALL}
    for name, examples in generate.EXAMPLES.items():
        lines = [line for example in examples.values() for line in example.strip().splitlines()]
        calls = [shlex.split(line)[1:] for line in lines if line.startswith("cdr-sync ")]
        own = name.split("-")[2:]

        assert any(call[: len(own)] == own for call in calls), name
        for call in calls:
            parse_command(call)


def test_every_command_has_its_page_with_every_option_and_its_help(shown):
    assert set(shown) == {"-".join(("cdr-sync", *path)) for path, _ in ALL}
    for path, command in ALL:
        text = shown["-".join(("cdr-sync", *path))]
        context = click.Context(command, help_option_names=["-h", "--help"])
        options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
        wanted = [
            f"cdr-sync {' '.join(path)}".strip(),
            *(" ".join(option.help.split()) for option in options),
        ]
        wanted += [", ".join(option.opts) for option in options]

        assert [words for words in wanted if words not in text] == []
        for word in re.findall(r"[\w/.'-]+", command.help):
            assert word in text


def test_the_first_page_lists_exit_codes_and_settings(shown):
    text = shown["cdr-sync"]

    assert "EXIT STATUS 0 finished" in text
    assert "130, 143 stopped by SIGINT" in text
    assert [name for name in SETTING_NAMES if environment_name(name) not in text] == []


def test_groff_has_no_warning_about_any_page(troff, tmp_path):
    wrong = tmp_path / "wrong.1"
    wrong.write_text(PAGES[0].read_text().replace(".SH DESCRIPTION", ".ZZ DESCRIPTION"))

    assert troff(*PAGES)[1] == ""
    assert "ZZ" in troff(wrong)[1]
