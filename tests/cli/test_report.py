"""`cdr-sync report` on the command line: options, files, mistakes, and the same numbers in both outputs."""

from __future__ import annotations

import re
import stat
import sys
from datetime import UTC, datetime, timedelta

import pytest
from support.months import fill_month
from support.operators import finish
from support.pages import Page

from etl.db.engine import open_engine

OCTOBER = ("--since", "2026-10-01", "--until", "2026-11-01")
WITHOUT_MATPLOTLIB = "import sys; sys.modules['matplotlib'] = None; from etl.cli.main import main; main()"


@pytest.fixture
def analyst(operator):
    """An operator with a month of calls."""
    engine = open_engine(f"sqlite:///{operator.database}")
    fill_month(engine, 200)
    engine.dispose()
    return operator


def report(operator, *words, **environment):
    result = operator.type("report", *OCTOBER, *words, **environment)
    assert result.exit_code == 0, result.output
    return result


def test_the_terminal_shows_the_same_numbers_as_the_page(analyst):
    report(analyst, "--output", analyst.home / "r.html")
    page = (analyst.home / "r.html").read_text()
    shown = report(analyst, COLUMNS="80").stdout
    figures = re.findall(r'<dd data-figure="\w+" data-value="[^"]*">([^<]*)</dd>', page)
    cells = Page(page).tables

    assert len(figures) == 8
    assert [figure for figure in figures if figure not in shown] == []
    for day, calls, _, rate, *_ in cells["days-table"][1:]:
        asr = f"{100 * float(rate):.1f} %" if rate else "–"
        assert re.search(rf"\w{{3}} {day} +{calls} █* *{re.escape(asr)}", shown)
    for status, count in zip(cells["hours-table"][0][1:], cells["hours-table"][-1][1:], strict=True):
        assert status == "others" or re.search(rf"{status} +{count} █*", shown)
    for name, *_, count in cells["quality-table"][1:]:
        assert re.search(rf"{name} +{count} ", shown)
    for name, row in Page(page).by_row("accounts-table").items():
        assert name == "account" or float(row[5]) in [
            float(amount.replace(",", ""))
            for amount in re.findall(rf"^{name} +([\d,.]+) ", shown, re.MULTILINE)
        ]


@pytest.mark.parametrize("width", [80, 60])
def test_without_a_terminal_it_is_plain_text_of_the_given_width(analyst, width):
    shown = report(analyst, "--mask", "--tz", "America/New_York", COLUMNS=str(width)).stdout

    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= width


def test_the_same_data_makes_the_same_bytes_in_every_process(analyst):
    here, there = analyst.home / "here.html", analyst.home / "there.html"
    report(analyst, "--output", here)
    finished = analyst.run("report", *OCTOBER, "--output", there, PYTHONHASHSEED="1")

    assert (finished.code, finished.stdout) == (0, ""), finished.all
    assert here.read_bytes() == there.read_bytes()


def test_a_page_replaces_the_one_before_and_keeps_its_permissions(analyst):
    path = analyst.home / "r.html"
    path.write_text("before")
    path.chmod(0o640)
    result = report(analyst, "--output", path)

    assert "200 calls" in result.stderr
    assert path.read_text().startswith("<!doctype html>")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [file.name for file in analyst.home.glob("*r.html*")] == ["r.html"]


def test_a_link_stays_a_link_and_a_device_is_written_to(analyst):
    (analyst.home / "link.html").symlink_to(analyst.home / "target.html")
    report(analyst, "--output", analyst.home / "link.html")
    finished = analyst.run("report", *OCTOBER, "--output", "/dev/stdout")

    assert (analyst.home / "link.html").is_symlink()
    assert finished.stdout == (analyst.home / "target.html").read_text()


def test_an_empty_period_is_not_an_error(analyst):
    nothing = ("report", "--since", "2020-01-01", "--until", "2020-02-01")
    shown = analyst.type(*nothing)
    written = analyst.type(*nothing, "--output", analyst.home / "r.html")

    assert (shown.exit_code, written.exit_code) == (0, 0)
    assert "No calls of this period are stored." in shown.stdout
    assert "No calls of this period are stored." in (analyst.home / "r.html").read_text()


def test_the_default_is_the_last_thirty_full_days(operator):
    shown = re.match(r"Calls, (.+) to (.+) \(UTC\)\n", operator.type("report").stdout)
    first, last = (datetime.strptime(day, "%d %B %Y").replace(tzinfo=UTC) for day in shown.groups())

    assert last - first == timedelta(days=29)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tz", "Asia/Kolkatta"), "Did you mean Asia/Kolkata?"),
        (("--since", "yesterday"), "'yesterday' is not a valid time"),
        (("--since", "2026-02-01", "--until", "2026-01-01"), "is not before --until"),
        (("--output", "/nowhere/r.html"), "/nowhere/r.html cannot be written: No such file or directory"),
        (("--output", "/"), "/ cannot be written: Is a directory"),
        (("--output", "r.pdf"), "A report cannot be written as .pdf. Use .html"),
    ],
)
def test_a_mistake_is_wrong_usage_without_a_traceback(operator, words, message):
    result = operator.type("report", *words)

    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_a_home_that_cannot_be_written_to_does_not_matter(analyst):
    finished = analyst.run("report", *OCTOBER, "--output", analyst.home / "r.html", HOME="/proc/nowhere")

    assert finished.code == 0
    assert len(finished.stderr.splitlines()) == 1


def test_without_the_extra_a_page_is_refused_and_the_terminal_works(analyst):
    program = (sys.executable, "-c", WITHOUT_MATPLOTLIB)
    refused = finish(analyst.start("report", "--output", "r.html", program=program))
    shown = finish(analyst.start("report", *OCTOBER, program=program))

    assert refused.code == 2
    assert refused.stderr == (
        "cdr-sync: --output needs matplotlib, which is not installed. Run `pip install "
        "'piopiy-cdr-sync[report]'`, or leave out --output\n"
    )
    assert shown.code == 0


def test_a_period_in_which_nothing_was_enqueued_says_so_in_both_outputs(analyst):
    nothing = ("report", "--since", "2020-01-01", "--until", "2020-02-01")
    shown = analyst.type(*nothing)
    analyst.type(*nothing, "--output", analyst.home / "r.html")

    for text in (shown.stdout, (analyst.home / "r.html").read_text()):
        assert text.count("No request was enqueued in this period.") == 1


def test_page_and_terminal_have_the_same_headings(analyst):
    report(analyst, "--output", analyst.home / "r.html")
    headings = re.findall("<h2>(.*?)</h2>", (analyst.home / "r.html").read_text())
    shown = report(analyst, COLUMNS="200").stdout.splitlines()

    # The terminal shows hours and statuses one after the other, and spend without days.
    own = ("Calls by hour and status", *(one for one in headings if one.startswith("Spend by day and")))
    assert [one for one in headings if one not in own and one not in shown] == []
