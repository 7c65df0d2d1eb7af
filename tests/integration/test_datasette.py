"""What an analyst sees: a real Datasette on a database that a job filled, looked at with a real browser."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import urllib.request

import pytest
from support.browser import browser  # noqa: F401 (a fixture)
from support.operators import wait_until
from support.systems import numbered

from etl.db.datasette.dashboard import dashboard
from etl.db.datasette.metadata import datasette_metadata
from etl.db.datasette.questions import QUESTIONS
from etl.db.engine import sqlite_path
from etl.db.tables import metadata
from etl.db.views import view_metadata

pytestmark = [pytest.mark.databases("sqlite"), pytest.mark.heavy]

SCENARIOS = ("answered", "missed", "several_b", "twins", "null_money", "count_mismatch", "malformed_money")
CHARTS = dashboard("any")["charts"]
DRAWN = [name for name, chart in CHARTS.items() if chart["library"] == "vega-lite"]
# How many bars, lines and points a chart has, once it is drawn.
MARKS = """
const chart = document.querySelector(arguments[0] + ' svg.marks');
return chart && chart.querySelectorAll('[class*="role-mark"] path[d]:not([d=""])').length
"""


LABELS = """
return Array.from(document.querySelectorAll(arguments[0] + ' .role-axis-label text'))
    .filter(e => e.style.opacity !== '0').map(e => e.textContent).filter(text => text)
"""


@pytest.fixture(scope="module")
def filled(lasting_system):
    """A database of a few dozen calls, with what else a run leaves behind."""
    lasting_system.enqueue(*(one for scenario in SCENARIOS for one in numbered(scenario, 6)))
    lasting_system.work_off()
    return lasting_system


@pytest.fixture(scope="module")
def serve(filled, tmp_path_factory):
    """Start a Datasette on the database; gives the address of its pages about it."""
    path = sqlite_path(str(filled.engine.url))
    described = tmp_path_factory.mktemp("datasette") / "metadata.json"
    described.write_text(json.dumps(datasette_metadata(path.stem)))
    running = []

    def start(*options):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = str(listener.getsockname()[1])
        words = (
            "-m",
            "datasette",
            "serve",
            *options,
            str(path),
            "--metadata",
            str(described),
            "--port",
            port,
        )
        process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)
        running.append(process)
        said = []
        for line in process.stderr:
            said.append(line)
            if "Uvicorn running" in line:
                return f"http://127.0.0.1:{port}"
        pytest.fail("".join(said))

    yield start
    for process in running:
        process.terminate()
        process.communicate()


@pytest.fixture(scope="module")
def site(serve):
    return serve()


def page(address):
    with urllib.request.urlopen(address) as answer:  # noqa: S310 (our own)
        return answer.read().decode()


def number_of_requests(site):
    (row,) = json.loads(page(f"{site}/cdr.json?sql=select+count(*)+from+cdr_requests&_shape=arrays"))["rows"]
    return row[0]


def seen(browser, selector, *, of="return document.querySelector(arguments[0]).innerText.trim()"):  # noqa: F811
    """Wait until a page has something there: its text, or what a script says of it."""
    found = []

    def look():
        found[:] = [browser.execute_script(of, selector)]
        return found[0] not in (None, "")

    wait_until(look)
    return found[0]


def errors(browser):  # noqa: F811
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize("name", QUESTIONS)
def test_each_question_is_answered_the_first_time_it_is_opened(site, browser, name):  # noqa: F811
    question = QUESTIONS[name]
    browser.get(f"{site}/cdr/{name}")
    rows = browser.execute_script("return document.querySelectorAll('.rows-and-columns tbody tr').length")
    blanks = browser.execute_script(
        "return Array.from(document.querySelectorAll('form.sql input[type=text]')).map(e => e.name)"
    )

    assert question.title in browser.execute_script("return document.querySelector('h1').innerText")
    assert question.description in browser.execute_script("return document.body.innerText")
    assert blanks == list(question.blanks)
    assert rows > 0
    assert browser.execute_script("return document.querySelector('.message-error')") is None


def test_the_dashboard_draws_each_chart_and_counts_what_there_is(site, browser, filled):  # noqa: F811
    browser.get(f"{site}/-/dashboards/calls")
    counts = {name: seen(browser, f"#chart-{name}") for name in CHARTS.keys() - DRAWN}
    states = filled.states()

    assert [name for name in DRAWN if not seen(browser, f"#chart-{name}", of=MARKS)] == []
    labels = {name: browser.execute_script(LABELS, f"#chart-{name}") for name in DRAWN}
    assert all(found and len(set(found)) == len(found) for found in labels.values()), labels
    assert counts == {
        "complete": f"{round(100 * states['done'] / sum(states.values()), 1):g} %",
        "waiting": "0",
        "dead": str(states["dead"]),
        "calls": str(states["done"]),
    }
    assert errors(browser) == []


def test_filters_narrow_down_the_dashboard(site, browser):  # noqa: F811
    browser.get(f"{site}/-/dashboards/calls?since=2100-01-01&until=&account=default")
    drawn = {name: seen(browser, f"#chart-{name}", of=MARKS) for name in DRAWN}

    assert drawn == dict.fromkeys(DRAWN, 0)
    assert seen(browser, "#chart-calls") == "0"
    assert browser.execute_script("return document.querySelector('select#account').value") == "default"


@pytest.mark.parametrize("table", [*metadata.sorted_tables, *view_metadata.sorted_tables], ids=str)
def test_each_table_and_view_shows_its_comments(site, table):
    shown = page(f"{site}/cdr/{table.name}")
    described = re.search(r'<dl class="column-descriptions">.*?</dl>', shown, re.DOTALL)[0]

    assert re.findall(r"<dt>(.*?)</dt>", described) == [column.name for column in table.columns]


def test_the_first_page_offers_the_questions_and_hides_internal_tables(site):
    shown = page(f"{site}/cdr")

    assert [
        title for title in (question.title for question in QUESTIONS.values()) if title not in shown
    ] == []
    assert 'href="/cdr/calls"' in shown
    assert "alembic_version" not in shown


def test_new_commits_are_visible_unless_the_file_is_served_as_immutable(serve, site, filled):
    frozen = serve("--immutable")
    before = number_of_requests(site)
    filled.enqueue("come later")

    assert number_of_requests(site) == before + 1
    assert number_of_requests(frozen) <= before
