"""Fixtures of the fault tests: a site, a proxy in front of its database, and the table at the end."""

from __future__ import annotations

import pytest
from support.catalogue import FAULTS
from support.ledgers import contradictions
from support.proxy import Proxy
from support.sites import Site

from etl.db.engine import read_url

_COLUMNS = ("database", "outcome", "requests", "api_calls", "legs_expected", "legs_found")
_INJECTED = pytest.StashKey[dict]()


def pytest_configure(config):
    config.addinivalue_line("markers", "fault(number): injects a fault of the catalogue, for real")
    config.addinivalue_line("markers", "untrue_ledger(why): changes claims by hand; the ledger is wrong")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Note which fault is injected on which databases, before `-k` takes some of the tests out."""
    injected = {}
    for item in items:
        for mark in item.iter_markers("fault"):
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            injected.setdefault(mark.args[0], set()).add(parameters.get("fresh_database"))
            item.user_properties.append(("fault", {"fault": mark.args[0]}))
    config.stash[_INJECTED] = injected


@pytest.fixture
def injected(pytestconfig):
    """The databases on which each fault is injected; None stands for a test without any."""
    return pytestconfig.stash[_INJECTED]


@pytest.fixture
def note(request):
    """A function that adds what came of a fault to its row in the table at the end."""

    def add(**cells):
        for name, row in request.node.user_properties:
            if name == "fault":
                row.update(cells)

    return add


@pytest.fixture
def site(request, database_url, engine, simulator, tmp_path, note):  # noqa: PLR0917 (fixtures)
    """The whole product on each database. After the test its processes end, and its ledger adds up."""
    home = tmp_path / "home"
    home.mkdir()
    here = Site(database_url, engine, simulator, home, note)
    yield here
    here.operator.end_processes()
    if not request.node.get_closest_marker("untrue_ledger"):
        assert list(contradictions(engine)) == []


@pytest.fixture
def proxy(database_url):
    """A proxy before the database's server."""
    with Proxy(read_url(database_url).port) as running:
        yield running


@pytest.fixture
def site_behind_proxy(site, proxy):
    """A site whose processes reach their database through the proxy; the tests go straight to it."""
    through = read_url(site.url).set(port=proxy.port)
    site.operator.environment["CDR_SYNC_DATABASE_URL"] = through.render_as_string(hide_password=False)
    return site


@pytest.fixture
def server(fresh_database):
    """The test server itself, which a test may kill; the next test finds it running."""
    server = fresh_database.server
    yield server
    if server.process is None or server.process.poll() is not None:
        server.start()


def pytest_terminal_summary(terminalreporter):
    """Print the table: what was injected where, and what came of it."""
    rows = []
    for kind in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(kind, ()):
            for name, row in getattr(report, "user_properties", ()):
                if name == "fault" and (report.when == "call" or kind in ("error", "skipped")):
                    rows.append((row, kind, report.nodeid.rpartition("::")[2]))
    if not rows:
        return
    terminalreporter.section("faults")
    heads = ("#", "fault", "database", "outcome", "requests", "calls", "legs expected", "found")
    lines = [
        (
            str(row["fault"]),
            FAULTS[row["fault"]].title,
            *(str(row.get(column, "")) for column in _COLUMNS[:1]),
            row.get("outcome", test) if kind == "passed" else f"{kind.upper()}: {test}",
            *(str(row.get(column, "")) for column in _COLUMNS[2:]),
        )
        for row, kind, test in sorted(
            rows, key=lambda entry: (entry[0]["fault"], entry[0].get("database", ""))
        )
    ]
    widths = [max(len(line[place]) for line in (heads, *lines)) for place in range(len(heads))]
    for line in (heads, *lines):
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())
