"""The pages for developers name functions, files and make targets that exist."""

from __future__ import annotations

import importlib
import re
from functools import reduce

import msgspec
import pytest
from support.tools import TOP

from etl.errors import SettingsError
from etl.settings import SETTING_NAMES, load_settings

TOUR = TOP / "docs" / "tour.md"
NAMED = re.findall(r"\]\(\.\./(etl/[\w/]+)\.py\) `([\w.]+)`", TOUR.read_text())
CONTRIBUTING = (TOP / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(("path", "name"), NAMED, ids=lambda word: word.rpartition("/")[2])
def test_the_tour_names_a_function_of_the_module_beside_it(path, name):
    assert reduce(getattr, name.split("."), importlib.import_module(path.replace("/", ".")))


def test_the_tour_leads_through_ten_functions_in_two_screens():
    text = TOUR.read_text()

    assert re.findall(r"^(\d+)\. \*\*", text, re.MULTILINE) == [str(number) for number in range(1, 11)]
    assert len(NAMED) >= 10
    assert len(text.splitlines()) <= 100


def test_contributing_names_files_that_exist():
    names = re.findall(r"`((?:etl|tests|docs|man|migrations|benchmarks)/[\w./]+)`", CONTRIBUTING)

    assert names
    assert [name for name in names if not (TOP / name).exists() and "COMMAND" not in name] == []


def test_contributing_names_make_targets_that_exist():
    targets = re.findall(r"^([\w-]+):", (TOP / "Makefile").read_text(), re.MULTILINE)

    assert set(re.findall(r"\bmake ([a-z-]+)", CONTRIBUTING)) <= set(targets)


@pytest.mark.parametrize("name", SETTING_NAMES)
def test_a_wrong_value_of_any_setting_is_reported(name, tmp_path):
    """A number needs bounds, and a pattern needs a hint: both say what is accepted."""
    config = tmp_path / "cdr-sync.toml"
    config.write_bytes(f"{name} = ".encode() + msgspec.json.encode(["wrong"]))

    with pytest.raises(SettingsError, match=name):
        load_settings({"config": str(config)}, {})
