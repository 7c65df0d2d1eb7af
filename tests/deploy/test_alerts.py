"""The alerts: promtool's tests of the rules pass, each rule is needed for that, and the metrics are ours."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml
from support.tools import DEPLOY, check, program, written_metrics

FOLDER = DEPLOY / "prometheus"
RULES = FOLDER / "cdr-sync.rules.yml"
TESTS = FOLDER / "cdr-sync.rules.test.yml"


def alerts():
    ((group),) = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


@pytest.fixture
def promtool():
    return program("promtool", "apt-get install prometheus")


def test_promtool_finds_nothing_wrong(promtool):
    code, said = check(promtool, "check", "rules", "--lint-fatal", RULES)

    assert code == 0, said
    assert f"{len(alerts())} rules found" in said


def test_each_alert_comes_when_it_must_and_not_before(promtool):
    code, said = check(promtool, "test", "rules", TESTS.name, cwd=FOLDER)

    assert code == 0, said


@pytest.mark.parametrize(
    "change",
    [{"expr": "vector(0) > 1"}, {"expr": "vector(1)"}, {"for": "0s"}],
    ids=["never", "always", "at once"],
)
def test_an_alert_that_came_never_or_always_or_too_soon_would_be_noticed(promtool, tmp_path, change):
    rules = yaml.safe_load(RULES.read_text())
    changed = {rule["alert"]: rule for rule in rules["groups"][0]["rules"] if change.keys() <= rule.keys()}
    for rule in changed.values():
        rule.update(change)
    (tmp_path / RULES.name).write_text(yaml.safe_dump(rules))
    shutil.copy(TESTS, tmp_path)
    _, said = check(promtool, "test", "rules", tmp_path / TESTS.name)

    assert set(re.findall(r"alertname: (\w+),", said)) == set(changed)


def test_every_metric_is_written_by_a_run_with_the_labels_that_are_asked_for():
    written = written_metrics()
    tested = {
        match[1]: set(re.findall(r"(\w+)=", match[2])) - {"instance"}
        for case in yaml.safe_load(TESTS.read_text())["tests"]
        for series in case["input_series"]
        if (match := re.fullmatch(r"(cdr_\w+)\{(.*)\}", series["series"]))
    }
    asked = {name for rule in alerts().values() for name in re.findall(r"cdr_sync_\w+", rule["expr"])}

    assert asked == set(tested)
    assert {name: written[name] for name in tested} == tested


def test_every_alert_says_what_is_wrong_and_where_to_read_on():
    for name, rule in alerts().items():
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/operate.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")
