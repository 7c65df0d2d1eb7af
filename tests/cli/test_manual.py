"""The manual pages: as `make docs` writes them, whole, and without a word that troff takes for its own."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from support.commands import ALL
from support.operators import PATIENCE
from support.servers import do_without

from etl.settings import SETTING_NAMES, environment_name

MAN = Path(__file__).parents[2] / "man"
PAGES = sorted((MAN / "man1").glob("*.1"))


@pytest.fixture(scope="module")
def troff():
    """Give what a page looks like at a terminal without bold or colours, and what troff has to say of it."""
    program = shutil.which("groff")
    if program is None:
        do_without("no groff: run `apt-get install groff-base`")

    def show(*pages):
        words = [program, "-man", "-ww", "-Tascii", "-P-cbou", "-rLL=200n", "-rHY=0", *map(str, pages)]
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=PATIENCE)
        return done.stdout, done.stderr

    return show


@pytest.fixture(scope="module")
def shown(troff):
    """Every page as it is read, in one line, by the name of its command."""
    return {path.stem: " ".join(troff(path)[0].split()) for path in PAGES}


def test_the_pages_are_those_that_the_commands_make():
    spec = importlib.util.spec_from_file_location("generate", MAN / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)

    assert {path.name: path.read_text() for path in PAGES} == generate.pages(), "run `make docs`"


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


def test_the_first_page_tells_exit_codes_and_settings(shown):
    text = shown["cdr-sync"]

    assert "EXIT STATUS 0 finished" in text
    assert "130, 143 stopped by SIGINT" in text
    assert [name for name in SETTING_NAMES if environment_name(name) not in text] == []


def test_troff_has_nothing_to_say_of_any_page(troff, tmp_path):
    wrong = tmp_path / "wrong.1"
    wrong.write_text(PAGES[0].read_text().replace(".SH NAME", ".ZZ NAME"))

    assert troff(*PAGES)[1] == ""
    assert "ZZ" in troff(wrong)[1]
