"""The command line as a whole: which commands there are, their help, and wrong usage."""

from __future__ import annotations

import importlib
import pkgutil

import click
import pytest
from support.commands import ALL, COMMANDS, PATHS, mistake

import etl.cli
from etl import __version__
from etl.cli.main import SUMMARIES, cli


def test_the_commands_of_the_contract_exist():
    there = {" ".join(path) for path, _ in ALL}

    assert {"demo", "db upgrade", "db downgrade", "db current", "db check", "enqueue", "sync"} <= there
    assert {"fetch", "status", "runs", "runs show", "requests list", "requests show", "simulator"} <= there
    assert {"backfill", "requests retry", "requests cancel", "doctor"} <= there


def test_every_module_with_a_command_is_registered():
    modules = (
        importlib.import_module(f"etl.cli.{found.name}") for found in pkgutil.iter_modules(etl.cli.__path__)
    )
    commands = {
        module.command.name
        for module in modules
        if isinstance(getattr(module, "command", None), click.Command)
    }

    assert commands == set(cli.list_commands(click.Context(cli)))


def test_a_command_has_the_name_that_the_list_of_commands_gives_it():
    context = click.Context(cli)

    assert all(cli.get_command(context, name).name == name for name in cli.list_commands(context))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_has_help_text(command):
    context = click.Context(command, help_option_names=["-h", "--help"])
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]

    assert (command.help or "").strip()
    assert [option.name for option in options if not (option.help or "").strip()] == []


@pytest.mark.parametrize("path", PATHS)
def test_help_works_with_nothing_configured_and_creates_no_files(new_operator, path):
    before = sorted(new_operator.home.rglob("*"))
    long, short = new_operator.type(*path, "--help"), new_operator.type(*path, "-h")

    assert (long.exit_code, long.stderr) == (0, "")
    assert long.stdout.startswith("Usage: ")
    assert short.stdout == long.stdout
    assert sorted(new_operator.home.rglob("*")) == before


@pytest.mark.parametrize("path", PATHS)
def test_help_works_with_wrong_settings(new_operator, path):
    result = new_operator.type(*path, "--help", CDR_SYNC_CONFIG="/nowhere", CDR_SYNC_WORKERS="many")

    assert (result.exit_code, result.stderr) == (0, "")


def test_the_help_lists_every_command_with_its_summary(new_operator):
    shown = " ".join(new_operator.type("--help").stdout.split())

    assert [name for name, summary in SUMMARIES.items() if f"{name} {summary}" not in shown] == []


@pytest.mark.parametrize("group", ["db", "requests", "runs"])
def test_the_list_of_commands_fits_80_columns(new_operator, group):
    assert "..." not in new_operator.type(group, "--help", COLUMNS="80").stdout.partition("Commands:")[2]


def test_version_prints_the_version(new_operator):
    result = new_operator.type("--version")

    assert (result.exit_code, result.stdout) == (0, f"cdr-sync, version {__version__}\n")


def test_an_unknown_command_is_wrong_usage_and_suggests_a_similar_one(new_operator):
    result = new_operator.type("snyc")

    assert result.exit_code == 2
    assert mistake(result) == "Error: No such command 'snyc'. Did you mean 'sync'?"


@pytest.mark.parametrize("option", ["-v", "--verbose", "--config", "--database-url", "--log-format"])
def test_a_program_option_after_the_command_is_reported_with_its_place(new_operator, option):
    result = new_operator.type("sync", option, "x")

    assert result.exit_code == 2
    assert mistake(result) == f"Error: The option '{option}' must come before the command."


def test_without_a_command_the_help_is_shown(new_operator):
    result = new_operator.type()

    assert result.exit_code == 2
    assert "cdr-sync demo" in result.stderr
