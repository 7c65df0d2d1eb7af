"""The report's page in a real browser: on a desktop and a phone, in light and dark mode, offline."""

from __future__ import annotations

import base64

import pytest
from support.browser import browser  # noqa: F401 (a fixture)
from support.months import fill_month
from support.operators import Operator

from etl.db.engine import open_engine

pytestmark = pytest.mark.heavy
PHONE, DESKTOP = 380, 1280
A4 = {"width": 687, "height": 1016, "deviceScaleFactor": 1, "mobile": False}  # less margins of 14 mm
# The lowest contrast of a text with its background, and the text; layers of colour are mixed as painted.
CONTRAST = """
const parse = text => {
  const parts = text.match(/[\\d.]+/g).map(Number);
  return text.startsWith('color(srgb') ? [...parts.slice(0, 3).map(x => x * 255), parts[3] ?? 1]
    : [...parts.slice(0, 3), parts[3] ?? 1];
};
const over = (top, below) => top.slice(0, 3).map((part, n) => part * top[3] + below[n] * (1 - top[3]));
const light = colour => {
  const [r, g, b] = colour.map(x => x / 255).map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
};
let worst = [99, ''];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; node = walker.nextNode();) {
  const element = node.parentElement;
  if (!node.textContent.trim() || !element.checkVisibility()) continue;
  const layers = [];
  for (let one = element; one; one = one.parentElement)
    layers.push(parse(getComputedStyle(one).backgroundColor));
  const behind = layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  const style = getComputedStyle(element);
  const ink = over(parse(element.closest('svg') ? style.fill : style.color), behind);
  const [high, low] = [light(ink), light(behind)].sort((a, b) => b - a);
  const contrast = (high + .05) / (low + .05);
  if (contrast < worst[0]) worst = [contrast, node.textContent.trim()];
}
return worst;
"""
# Tables that are wider than the frame in which they scroll, or than the window.
CUT = """
return [...document.querySelectorAll('table')].filter(one => one.checkVisibility())
  .filter(one => one.getBoundingClientRect().right > Math.min(
    innerWidth, one.closest('.scroll')?.getBoundingClientRect().right ?? innerWidth) + 1).map(one => one.id);
"""
SERIES = """
return [...document.querySelectorAll('section path')].filter(one => !one.closest('defs'))
  .map(one => getComputedStyle(one))
  .filter(one => one.fill !== 'none').map(one => one.fill).filter((one, n, all) => all.indexOf(one) === n);
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The file of a page with two accounts."""
    home = tmp_path_factory.mktemp("reports")
    operator = Operator(home)
    assert operator.type("enqueue", "answered-1").exit_code == 0
    engine = open_engine(f"sqlite:///{operator.database}")
    fill_month(engine, 600)
    engine.dispose()
    path = home / "report.html"
    words = ("--since", "2026-10-01", "--until", "2026-11-01", "--tz", "Asia/Kolkata", "--output", path)
    assert operator.type("report", *words).exit_code == 0
    return path


@pytest.fixture
def look(browser, page):  # noqa: F811 (the fixture)
    """Open the page in a window of a width, in a colour scheme, without a network, with all tables open."""

    def opened(width, scheme, *, opens_tables=True):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < DESKTOP}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
        browser.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        browser.get(page.as_uri())
        if opens_tables:
            browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
        return browser

    return opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_fits_has_enough_contrast_and_loads_nothing(look, width, scheme):
    window = look(width, scheme)
    wide = window.execute_script("return document.documentElement.scrollWidth")
    contrast, text = window.execute_script(CONTRAST)
    loaded = window.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
    cut = window.execute_script(CUT)
    drawn = window.execute_script(
        "return [...document.querySelectorAll('svg')].map(one => one.getBoundingClientRect().height)"
    )

    assert wide <= width
    assert bool(cut) == (width == PHONE)  # where it can be scrolled
    assert contrast >= 4.5, text
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert window.get_log("browser") == []
    assert len(drawn) == 7
    assert min(drawn) > 100


def test_text_in_charts_is_large_enough_on_a_phone(look):
    sizes = look(PHONE, "light").execute_script(
        "return [...document.querySelectorAll('svg text')].map(one => one.getBoundingClientRect())"
        ".map(box => Math.min(box.width, box.height))"
    )

    assert min(size for size in sizes if size) >= 4  # a digit is half as wide as it is high


def test_charts_take_their_colours_from_the_scheme(look):
    light, dark = (set(look(DESKTOP, scheme).execute_script(SERIES)) for scheme in ("light", "dark"))

    assert len(light) >= 6
    assert light.isdisjoint(dark)


def test_these_checks_notice_text_that_is_too_dim_or_too_wide(look):
    window = look(PHONE, "dark")
    window.execute_script(
        "document.querySelector('h1').style.color = '#444';"
        "document.querySelector('.lead').style.width = '900px'"
    )

    assert window.execute_script(CONTRAST)[0] < 4.5
    assert window.execute_script("return document.documentElement.scrollWidth") > PHONE


def test_collapsed_tables_are_printed(look):
    window = look(DESKTOP, "dark", opens_tables=False)
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    folded = window.execute_script(
        "return [...document.querySelectorAll('details table')]"
        ".map(one => one.getBoundingClientRect().height)"
    )
    colour = window.execute_script("return getComputedStyle(document.body).color")
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", A4)
    cut = window.execute_script(CUT)
    paper = window.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"]

    assert min(folded) > 20
    assert cut == []
    assert colour == "rgb(27, 30, 33)"
    assert base64.b64decode(paper).startswith(b"%PDF")
