"""`cdr-sync report` as somebody types it."""

from __future__ import annotations

import re
import stat
import sys

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


def test_the_terminal_says_the_same_numbers_as_the_page(analyst):
    report(analyst, "--output", analyst.home / "r.html")
    page = (analyst.home / "r.html").read_text()
    shown = report(analyst, COLUMNS="80").stdout
    figures = re.findall(r'<dd data-figure="\w+" data-value="[^"]*">([^<]*)</dd>', page)
    cells = Page(page).tables

    assert len(figures) == 8
    assert [figure for figure in figures if figure not in shown] == []
    for day, calls, _, rate, *_ in cells["days-table"][1:]:
        said = f"{100 * float(rate):.1f} %" if rate else "–"
        assert re.search(rf"\w{{3}} {day} +{calls} █* *{re.escape(said)}", shown)
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
def test_off_a_terminal_it_is_plain_text_of_that_width(analyst, width):
    shown = report(analyst, "--mask", "--tz", "America/New_York", COLUMNS=str(width)).stdout

    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= width


def test_the_same_data_makes_the_same_bytes_in_every_process(analyst):
    here, there = analyst.home / "here.html", analyst.home / "there.html"
    report(analyst, "--output", here)
    finished = analyst.run("report", *OCTOBER, "--output", there, PYTHONHASHSEED="1")

    assert (finished.code, finished.stdout) == (0, ""), finished.all
    assert here.read_bytes() == there.read_bytes()


def test_a_page_replaces_the_one_before_whole_and_keeps_its_rights(analyst):
    path = analyst.home / "r.html"
    path.write_text("before")
    path.chmod(0o640)
    result = report(analyst, "--output", path)

    assert "200 calls" in result.stderr
    assert path.read_text().startswith("<!doctype html>")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [file.name for file in analyst.home.glob("*r.html*")] == ["r.html"]


def test_a_link_stays_a_link_and_what_is_no_file_is_written_to(analyst):
    (analyst.home / "link.html").symlink_to(analyst.home / "target.html")
    report(analyst, "--output", analyst.home / "link.html")
    finished = analyst.run("report", *OCTOBER, "--output", "/dev/stdout")

    assert (analyst.home / "link.html").is_symlink()
    assert finished.stdout == (analyst.home / "target.html").read_text()


def test_an_empty_period_is_no_failure(analyst):
    nothing = ("report", "--since", "2020-01-01", "--until", "2020-02-01")
    shown = analyst.type(*nothing)
    written = analyst.type(*nothing, "--output", analyst.home / "r.html")

    assert (shown.exit_code, written.exit_code) == (0, 0)
    assert "No call of this period is stored." in shown.stdout
    assert "No call of this period is stored." in (analyst.home / "r.html").read_text()


def test_alone_it_tells_thirty_days(operator):
    begin, end = re.findall(r"\d{4}-\d\d-\d\d 00:00", operator.type("report").stdout)[:2]

    assert begin < end


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tz", "Asia/Kolkatta"), "did you mean Asia/Kolkata"),
        (("--since", "yesterday"), "'yesterday' is not a valid time"),
        (("--since", "2026-02-01", "--until", "2026-01-01"), "is not before --until"),
        (("--output", "/nowhere/r.html"), "/nowhere/r.html cannot be written: No such file or directory"),
        (("--output", "/"), "/ cannot be written: Is a directory"),
        (("--output", "r.pdf"), "r.pdf would hold HTML: call it .html"),
    ],
)
def test_a_mistake_is_told_in_a_line(operator, words, message):
    result = operator.type("report", *words)

    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_a_home_that_cannot_be_written_is_no_matter(analyst):
    finished = analyst.run("report", *OCTOBER, "--output", analyst.home / "r.html", HOME="/proc/nowhere")

    assert finished.code == 0
    assert len(finished.stderr.splitlines()) == 1


def test_without_the_extra_a_page_is_refused_and_the_terminal_needs_none(analyst):
    program = (sys.executable, "-c", WITHOUT_MATPLOTLIB)
    refused = finish(analyst.start("report", "--output", "r.html", program=program))
    shown = finish(analyst.start("report", *OCTOBER, program=program))

    assert refused.code == 2
    assert refused.stderr == (
        "cdr-sync: --output needs matplotlib: run `pip install 'piopiy-cdr-sync[report]'`, or leave --output "
        "out for bars in the terminal\n"
    )
    assert shown.code == 0


def test_a_period_in_which_nothing_was_enqueued_says_so_in_both_forms(analyst):
    nothing = ("report", "--since", "2020-01-01", "--until", "2020-02-01")
    shown = analyst.type(*nothing)
    analyst.type(*nothing, "--output", analyst.home / "r.html")

    for told in (shown.stdout, (analyst.home / "r.html").read_text()):
        assert told.count("No request was enqueued in this period.") == 1


def test_the_same_has_the_same_name_in_both_forms(analyst):
    report(analyst, "--output", analyst.home / "r.html")
    headings = re.findall("<h2>(.*?)</h2>", (analyst.home / "r.html").read_text())
    shown = report(analyst, COLUMNS="200").stdout.splitlines()

    # The terminal tells hours and statuses apart, and the page draws the days of what it lists.
    own = ("Calls by hour and status", *(one for one in headings if one.startswith("Spend by day and")))
    assert [one for one in headings if one not in own and one not in shown] == []
