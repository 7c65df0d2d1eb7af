"""The systemd units: systemd has nothing to say against them, and a run works within what they allow."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from datetime import timedelta

import pytest
from support.operators import CONSOLE_SCRIPT
from support.tools import DEPLOY, OPERATE, check, parse_command, program, table_in

from etl.monitoring import LAST_SECONDS
from etl.retrying import TRANSACTION_SECONDS
from etl.settings import parse_duration
from etl.sync.run import DRAIN_SECONDS

FOLDER = DEPLOY / "systemd"
INSTALLED = "/opt/cdr-sync/bin/cdr-sync"
MOST_EXPOSED = 12  # of 100, as `systemd-analyze security` counts


def unit(name):
    """The lines of a unit file: every value by its key, in order."""
    values = defaultdict(list)
    for key, value in re.findall(r"^(\w+)=(.*)$", (FOLDER / name).read_text(), re.MULTILINE):
        values[key].append(value)
    return values


@pytest.fixture
def analyze():
    return program("systemd-analyze", "apt-get install systemd")


@pytest.fixture
def units(tmp_path):
    """The units as if they were installed here; `change` replaces a line of the service."""

    def install(line="", by=""):
        text = (FOLDER / "cdr-sync.service").read_text().replace(INSTALLED, CONSOLE_SCRIPT)
        assert line in text
        service, timer = tmp_path / "cdr-sync.service", tmp_path / "cdr-sync.timer"
        service.write_text(text.replace(line, by, 1) if line else text)
        timer.write_text((FOLDER / "cdr-sync.timer").read_text())
        return service, timer

    return install


def test_systemd_finds_nothing_wrong(analyze, units):
    assert check(analyze, "verify", *units()) == (0, "")


@pytest.mark.parametrize("by", ["ProtectSistem=strict", "ProtectSystem=strictly", "ExecStartPre=/nowhere/it"])
def test_systemd_would_find_what_is_wrong(analyze, units, by):
    _, said = check(analyze, "verify", *units("ProtectSystem=strict", by))

    assert "cdr-sync.service" in said


def exposure(analyze, service):
    code, _ = check(
        analyze, "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", service
    )
    return code


def test_a_run_can_reach_next_to_nothing(analyze, units):
    assert exposure(analyze, units()[0]) == 0


@pytest.mark.parametrize(
    "line", ["CapabilityBoundingSet=\n", "SystemCallFilter=@system-service\n", "User=cdr-sync\n"]
)
def test_a_hole_in_the_hardening_is_noticed(analyze, units, line):
    assert exposure(analyze, units(line)[0]) != 0


def test_the_timer_starts_a_run_every_minute(analyze):
    (calendar,) = unit("cdr-sync.timer")["OnCalendar"]
    code, said = check(analyze, "calendar", "--iterations=3", calendar)
    instants = re.findall(r"\d\d:\d\d:00 UTC", said)

    assert code == 0
    assert len({instant[3:5] for instant in instants}) == 3


def test_the_user_is_made_by_the_file_for_it(tmp_path):
    sysusers = program("systemd-sysusers", "apt-get install systemd")
    (tmp_path / "etc").mkdir()
    code, said = check(sysusers, f"--root={tmp_path}", FOLDER / "cdr-sync.sysusers")
    (name, *_, home, shell) = (tmp_path / "etc/passwd").read_text().strip().split(":")

    assert code == 0, said
    assert [name] == unit("cdr-sync.service")["User"]
    assert (home, shell) == ("/var/lib/cdr-sync", "/usr/sbin/nologin")


def test_a_run_has_ended_before_systemd_ends_it():
    service = unit("cdr-sync.service")
    program_path, *words = shlex.split(service["ExecStart"][0])
    longest = parse_command(words)["time_limit"] + timedelta(
        seconds=DRAIN_SECONDS + LAST_SECONDS + TRANSACTION_SECONDS
    )

    assert program_path == INSTALLED
    assert longest < parse_duration(service["TimeoutStartSec"][0].removesuffix("in"))
    assert timedelta(seconds=DRAIN_SECONDS + LAST_SECONDS) < parse_duration(service["TimeoutStopSec"][0])


def test_exit_codes_after_which_nothing_is_to_be_done_are_no_failures():
    harmless = {
        code
        for codes, _, remedy in table_in(OPERATE.read_text(), "Exit codes")
        for code in codes.split(", ")
        if remedy.startswith("nothing")
    }

    assert {"0", *unit("cdr-sync.service")["SuccessExitStatus"][0].split()} == harmless


@pytest.fixture
def environment(site):
    """What systemd would give the process, the folder of its credentials included."""
    service = unit("cdr-sync.service")
    credentials = {line.split(":")[0] for line in service["LoadCredential"]}
    words = shlex.split(service["Environment"][0].replace("%d", str(site.secrets)))
    file = (FOLDER / "environment").read_text()

    assert credentials == {path.name for path in site.secrets.iterdir()}
    words += re.findall("^[A-Z_]+=.*$", file, re.MULTILINE)
    return site.given | dict(word.split("=", 1) for word in words)


def test_a_run_makes_only_system_calls_that_the_unit_allows(analyze, site, environment):
    strace = program("strace", "apt-get install strace")
    service = unit("cdr-sync.service")
    environment["CDR_SYNC_METRICS_FILE"] = str(site.home / "cdr-sync.prom")
    words = shlex.split(service["ExecStart"][0])[1:]
    trace = site.home / "trace"
    code, said = check(strace, "-f", "-o", trace, CONSOLE_SCRIPT, *words, env=environment)
    calls = re.findall(r"^\d+ +(\w+)\((.*)", trace.read_text(), re.MULTILINE)
    names = {name for name, _ in calls}
    families = {arguments.split(",")[0] for name, arguments in calls if name == "socket"}
    written = {
        arguments.split('"')[1]
        for name, arguments in calls
        if name == "openat" and re.search("O_WRONLY|O_RDWR|O_CREAT", arguments)
    }

    assert code == 65, said
    assert site.states() == {"done": 1, "dead": 1}
    # SQLite hands its files over to their owner where it runs as root, as it may here.
    assert names - allowed_calls(analyze, *service["SystemCallFilter"]) <= {"fchown"}
    assert names - allowed_calls(analyze, "@basic-io")
    assert families <= set(service["RestrictAddressFamilies"][0].split())
    assert not [arguments for _, arguments in calls if "PROT_WRITE|PROT_EXEC" in arguments]
    assert {path for path in written if not path.startswith(f"{site.home}/")} <= {"/dev/null"}


def allowed_calls(analyze, *filters):
    """What the lines of a filter come to, taken one after the other."""
    _, said = check(analyze, "syscall-filter", "--no-pager")
    sets, name = defaultdict(set), ""
    for line in said.splitlines():
        if line.startswith("@"):
            name = line.strip()
        elif member := re.fullmatch(r" {4}(@?[a-z0-9_-]+)", line):
            sets[name].add(member[1])

    def calls_of(name):
        return {call for one in sets[name] for call in (calls_of(one) if one[0] == "@" else {one})}

    allowed = calls_of("@default")
    for line in filters:
        chosen = {call for name in line.removeprefix("~").split() for call in calls_of(name)}
        allowed = allowed - chosen if line.startswith("~") else allowed | chosen
    return allowed


def test_a_killed_run_can_be_noticed_within_the_unit():
    service = unit("cdr-sync.service")

    assert service["ProcSubset"] == ["all"]  # or /proc/sys/kernel/random/boot_id is not there
    assert "AF_UNIX" in service["RestrictAddressFamilies"][0]  # a database on the same machine
