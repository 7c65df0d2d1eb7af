"""The runbook explains every exit code, error kind, metric and alert, and deploy/ names nothing unknown."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from support.tools import (
    DEPLOY,
    OPERATE,
    TOP,
    anchors_in,
    table_in,
    variables_in,
    variables_that_are_read,
    written_metrics,
)

from etl.db import queue
from etl.errors import AlreadyRunningError, CdrSyncError, RequestError
from etl.sync import settle
from etl.sync.summary import Summary

FILES = sorted(path for path in [*DEPLOY.rglob("*"), TOP / "README.md", OPERATE] if path.is_file())


def family(kind):
    """A class with all that are derived from it."""
    return {kind}.union(*(family(one) for one in kind.__subclasses__()))


def exit_codes():
    """Every exit code: of errors, of runs, of click's wrong usage, and of signals."""
    problem = {"default": "why"}
    runs = [
        Summary(),
        Summary(signal=2),
        Summary(signal=15),
        Summary(api_down=problem),
        Summary(refused=problem),
        Summary(crashed=["a request"]),
        Summary(counts=Counter(dead=1)),
    ]
    assert AlreadyRunningError in family(CdrSyncError)
    return {error.exit_code for error in family(CdrSyncError)} | {run.exit_code for run in runs}


@pytest.mark.parametrize(("path", "heading"), [(OPERATE, "Exit codes"), (TOP / "README.md", "Exit codes")])
def test_every_exit_code_is_explained(path, heading):
    rows = table_in(path.read_text(), heading)

    assert {int(code) for cell, *_ in rows for code in cell.split(", ")} == exit_codes()
    assert all(cell for row in rows for cell in row)


def test_every_error_kind_is_explained():
    kinds = {error.reason for error in family(RequestError)} | {settle._UNEXPECTED, "lease_expired"}
    rows = table_in(OPERATE.read_text(), "Error kinds")

    assert "'lease_expired'" in Path(queue.__file__).read_text()
    assert sorted(cell.strip("`") for cell, *_ in rows) == sorted(kinds)
    assert all(cell for row in rows for cell in row)


def test_every_metric_is_explained():
    names = {
        re.sub("_(bucket|count|sum)$", "", name): labels - {"le"}
        for name, labels in written_metrics().items()
    }
    rows = table_in(OPERATE.read_text(), "Metrics")
    explained = {
        match[1]: set(filter(None, (match[2] or "").split(",")))
        for cell, _ in rows
        if (match := re.fullmatch(r"`(\w+)(?:\{([\w,]+)\})?`", cell))
    }

    assert explained == names


def test_every_alert_has_its_section():
    rules = yaml.safe_load((DEPLOY / "prometheus" / "cdr-sync.rules.yml").read_text())["groups"][0]["rules"]
    sections = re.findall(r"^### (CdrSync\w+)$", OPERATE.read_text(), re.MULTILINE)

    assert sections == [rule["alert"] for rule in rules]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TOP)))
def test_every_variable_and_section_that_a_file_names_exists(path):
    text = path.read_text()
    known = anchors_in(OPERATE.read_text())

    assert variables_in(text) <= variables_that_are_read()
    assert set(re.findall(r"docs/operate\.md#([\w-]+)", text)) <= known


def test_an_unknown_variable_is_detected():
    assert not variables_in("CDR_SYNC_WORKER=8") <= variables_that_are_read()
    assert {
        "PIOPIY_SECRET_FILE",
        "CDR_SYNC_DATABASE_URL_FILE",
        "CDR_SYNC_CONFIG",
    } <= variables_that_are_read()
