"""What the tests of deploy/ use: the programs that read these files, and cdr-sync's own descriptions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
from prometheus_client.parser import text_string_to_metric_families

from etl.cli.main import cli
from etl.db.figures import QueueFigures
from etl.monitoring import EndedRun, metrics_text
from etl.settings import load_settings
from etl.sync.summary import Summary
from support.servers import do_without

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"
OPERATE = TOP / "docs" / "operate.md"


def program(name, remedy):
    """The path of a program; without it a test is skipped, and in CI fails."""
    places = [str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]
    return shutil.which(name, path=os.pathsep.join(places)) or do_without(f"no {name}: {remedy}")


def check(*command, **options):
    """Run a program that checks something: its exit code, and all that it says."""
    run = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    return run.returncode, run.stdout


def text_without_comments(path):
    return "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))


def variables_that_are_read():
    """Every environment variable that the settings look up."""

    class Environment(dict):
        def get(self, name, default=None):
            read.add(name)
            return default

    read = set()
    load_settings({}, Environment())
    return read


def variables_in(text):
    return set(re.findall(r"\b(?:CDR_SYNC|PIOPIY)_[A-Z_]+\b", text))


def parse_command(words):
    """Parse what stands after `cdr-sync` as the real command line does; gives its options by name."""
    command, rest = cli, list(words)
    while isinstance(command, click.Group) and not (rest and rest[0].startswith("-")):
        name, *rest = rest
        command = command.get_command(click.Context(command), name)
        assert command is not None, f"there is no command {name!r}"
    return command.make_context(name, rest).params


def written_metrics():
    """The samples of a metrics file in which everything is known: their names, with those of their labels."""
    queue = QueueFigures(
        now=None,
        last_success_at=None,
        oldest_due_seconds=1.0,
        running=1,
        dead={"timeout": 1},
        breakers={"default": True},
    )
    text = metrics_text(EndedRun(1.0, 1.0, 0, Summary()), queue, last_success_at=1.0).decode()
    families = text_string_to_metric_families(text)
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def tables_in(text, heading):
    """The rows of each Markdown table in the section below a heading, without their heads."""
    section = re.split(f"^##+ {heading}\n", text, flags=re.MULTILINE)[1].partition("\n## ")[0]
    return [
        [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()[2:]]
        for table in re.findall(r"(?:^\|.*\n?)+", section, re.MULTILINE)
    ]


def table_in(text, heading):
    """The rows of the first table in the section below a heading."""
    return tables_in(text, heading)[0]


def anchors_in(text):
    """The anchors that a Markdown page's headings get."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
