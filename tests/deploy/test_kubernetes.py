"""The CronJob: Kubernetes' own schema has nothing against it, and what it starts is a run that works."""

from __future__ import annotations

import copy
import json
import re
from datetime import timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml
from support.operators import CONSOLE_SCRIPT
from support.tools import DEPLOY, check, parse_command

from etl import __version__
from etl.monitoring import LAST_SECONDS
from etl.retrying import TRANSACTION_SECONDS
from etl.sync.run import DRAIN_SECONDS

PATH = DEPLOY / "kubernetes" / "cronjob.yaml"
SCHEMA = json.loads(Path(__file__).with_name("cronjob-1.37.schema.json").read_text())


@pytest.fixture
def manifest():
    return yaml.safe_load(PATH.read_text())


@pytest.fixture
def job(manifest):
    return manifest["spec"]["jobTemplate"]["spec"]


@pytest.fixture
def pod(job):
    return job["template"]["spec"]


@pytest.fixture
def container(pod):
    (container,) = pod["containers"]
    return container


def test_kubernetes_knows_every_word_of_it(manifest):
    jsonschema.validate(manifest, SCHEMA)


@pytest.mark.parametrize(
    ("name", "value"),
    [("fsGroups", 10001), ("fsGroup", "10001"), ("seccompProfile", {"kind": "RuntimeDefault"})],
)
def test_kubernetes_would_refuse_what_is_wrong(manifest, pod, name, value):
    pod["securityContext"][name] = value

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)


def test_runs_may_overlap_and_the_next_minute_is_the_next_try(manifest, job, pod):
    assert manifest["spec"]["schedule"] == "* * * * *"
    assert manifest["spec"]["concurrencyPolicy"] == "Allow"
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")


def test_a_run_has_ended_before_kubernetes_ends_it(job, pod, container):
    seconds = parse_command(container["args"])["time_limit"] / timedelta(seconds=1)

    assert seconds + DRAIN_SECONDS + LAST_SECONDS + TRANSACTION_SECONDS < job["activeDeadlineSeconds"]
    assert pod["terminationGracePeriodSeconds"] > DRAIN_SECONDS + LAST_SECONDS


def test_a_pod_may_do_no_more_than_the_strictest_profile_allows(pod, container):
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} == set(container["resources"])


def test_the_image_is_this_version_and_runs_as_the_user_that_it_has(pod, container):
    containerfile = (DEPLOY / "container" / "Containerfile").read_text()

    assert container["image"].endswith(f"/cdr-sync:{__version__}")
    assert f"USER {pod['securityContext']['runAsUser']}:" in containerfile


def test_the_secrets_are_files_that_a_run_can_use(site, pod, container):
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    given = {
        one["name"]: one["value"].replace(mount["mountPath"], str(site.secrets)) for one in container["env"]
    }
    keys = re.findall(r"--from-file=(\S+)", PATH.read_text())
    code, said = check(CONSOLE_SCRIPT, *container["args"], env=site.given | given)

    assert mount["name"] == volume["name"]
    assert volume["secret"]["defaultMode"] == 0o400
    assert set(keys) == {path.name for path in site.secrets.iterdir()}
    assert code == 65, said
    assert site.states() == {"done": 1, "dead": 1}


def test_the_migrations_are_run_as_its_comments_say(job):
    place, arguments = re.search(r"jq '\.spec\.(template\S+) = (\[.*?\])'", PATH.read_text()).groups()
    changed = copy.deepcopy(job)
    for name in re.findall(r"\w+", place)[:-2]:
        changed = changed[name]

    assert place.endswith(".containers[0].args")
    assert len(changed) == 1
    assert parse_command(json.loads(arguments)) is not None


def test_the_schema_is_kept_whole():
    text = json.dumps(SCHEMA)

    assert set(re.findall(r'"#/\$defs/(\w+)"', text)) == set(SCHEMA["$defs"])
