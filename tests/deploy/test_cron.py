"""The crontab, read as cron reads /etc/cron.d and run as cron runs it; and the rotation of its log."""

from __future__ import annotations

import getpass
import grp
import os
import re
import subprocess
from pathlib import Path

import pytest
from support.operators import CONSOLE_SCRIPT
from support.tools import DEPLOY, check, parse_command, program

CRONTAB = DEPLOY / "cron" / "cdr-sync"
LOGROTATE = DEPLOY / "logrotate" / "cdr-sync"


def read_crontab(text):
    """Its variables, and its jobs as pairs of user and command; refuses what cron would not run as meant."""
    assert text.endswith("\n"), "cron ignores a last line that has no end"
    variables, jobs = {}, []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if setting := re.fullmatch(r"\s*(\w+)\s*=\s*(.*?)\s*", line):
            variables[setting[1]] = setting[2]
            continue
        *times, user, command = line.split(None, 6)
        assert len(times) == 5, f"five fields of time, a user and a command: {line}"
        assert all(re.fullmatch(r"[\d*/,-]+", field) for field in times), line
        assert "%" not in command.replace(r"\%", ""), f"cron takes % for the end of the line: {line}"
        jobs.append((user, command))
    return variables, jobs


def with_the_log():
    """The crontab with its line that writes to a file instead of the one that sends mail."""
    text = CRONTAB.read_text()
    return re.sub(
        r"^#(?=\* \* )", "", re.sub(r"^\* \* .*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE
    )


def run_as_cron(site, text):
    """Run the only job, by the shell and with the environment that cron gives it."""
    variables, ((_, command),) = read_crontab(text)
    variables["PATH"] = variables["PATH"].replace("/opt/cdr-sync/bin", str(Path(CONSOLE_SCRIPT).parent))
    environment = {
        name: value.replace("/etc/cdr-sync", str(site.secrets)) for name, value in variables.items()
    }
    command = command.replace("/var/log/cdr-sync", str(site.home))
    return subprocess.run(
        ["/bin/sh", "-c", command], env=site.given | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "line",
    [
        "* * * * cdr-sync cdr-sync sync",
        "* * * * * cdr-sync date +%F",
        "@minutely cdr-sync sync",
        "* * * * * x y",
    ],
    ids=["four times", "percent", "word", "no end of the line"],
)
def test_the_reader_refuses_what_cron_would_not_run_as_meant(line):
    with pytest.raises((AssertionError, ValueError)):
        read_crontab(line if line.endswith("y") else f"{line}\n")


@pytest.mark.parametrize("text", [CRONTAB.read_text(), with_the_log()], ids=["mail", "log"])
def test_every_minute_the_service_user_runs_a_command_that_exists(text):
    _, ((user, command),) = read_crontab(text)
    name, *words = command.partition(" 2>>")[0].split()
    options = parse_command(words)

    assert re.fullmatch(r"[\w-]+", CRONTAB.name), "cron passes over other names"
    assert (user, name) == ("cdr-sync", "cdr-sync")
    assert 0 < options["time_limit"].total_seconds() < 60
    assert not options["single_instance"]


def test_cron_mails_what_a_person_must_know_and_nothing_else(site):
    first = run_as_cron(site, CRONTAB.read_text())
    second = run_as_cron(site, CRONTAB.read_text())

    assert (first.returncode, first.stdout) == (65, "")
    assert first.stderr.count("\n") == 1
    assert "1 request became dead" in first.stderr
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert site.states() == {"done": 1, "dead": 1}


def test_the_other_line_adds_it_to_a_file_that_logrotate_rotates(site):
    logrotate = program("logrotate", "apt-get install logrotate")
    run = run_as_cron(site, with_the_log())
    log = site.home / "cdr-sync.log"
    before = log.read_text()
    rules = site.home / "logrotate"
    rules.write_text(rules_for(site))
    dry_run = check(logrotate, "-d", rules)
    real = check(logrotate, "--force", "--state", site.home / "state", rules)

    assert (run.returncode, run.stdout, run.stderr) == (65, "", "")
    assert "became dead" in before
    assert (dry_run[0], "error" in dry_run[1]) == (0, False), dry_run
    assert real == (0, "")
    assert (log.read_text(), log.with_name("cdr-sync.log.1").read_text()) == ("", before)
    assert log.stat().st_mode & 0o777 == 0o640


def test_logrotate_finds_what_is_wrong(site):
    logrotate = program("logrotate", "apt-get install logrotate")
    rules = site.home / "logrotate"
    rules.write_text(rules_for(site).replace("delaycompress", "delaycompres"))

    assert "error" in check(logrotate, "-d", rules)[1]


def rules_for(site):
    """The rules of logrotate for a log of this user, in their folder."""
    us = f"{getpass.getuser()} {grp.getgrgid(os.getgid()).gr_name}"
    return LOGROTATE.read_text().replace("/var/log/cdr-sync", str(site.home)).replace("cdr-sync cdr-sync", us)
