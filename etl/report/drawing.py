"""The charts of a report, as SVG with the colours of the page, readable in light and dark mode.

Matplotlib draws with placeholder colours, which are then replaced by the page's CSS variables. Text stays
text, so it can be selected and needs no font. The same figures make the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, tzinfo
from decimal import Decimal
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from etl.report.figures import Balance, Tally
from etl.report.period import Period

_WIDTH = 5.0  # inches of 72 units each: a phone shows that without scaling it down
# Placeholder colours, and the CSS variables that replace them.
_INK, _PAPER, _GRID = "#010101", "#010102", "#010103"
SERIES = ("#010110", "#010111", "#010112", "#010113", "#010114", "#010115")
_REST = "#010116"
_VARIABLES = {
    _INK: "currentColor",
    _PAPER: "var(--paper)",
    _GRID: "var(--grid)",
    **{colour: f"var(--series-{n})" for n, colour in enumerate(SERIES, start=1)},
    _REST: "var(--rest)",
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cdr-sync",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same text widths on every machine
    "font.size": 9.5,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
    "patch.edgecolor": _PAPER,
    "patch.force_edgecolor": True,
    "patch.linewidth": 0.4,
    "timezone": "UTC",
}


@contextmanager
def _figure(height: float, rows: int = 1) -> Iterator[tuple[Figure, Any]]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure, figure.subplots(rows, 1, sharex=rows > 1)


def draw_hours(hours: Mapping[str, Sequence[int]]) -> Markup:
    """Calls by hour of the day, stacked by status.

    Args:
        hours: the number of calls in each of the 24 hours, by status; "" stands for all other statuses.
    """
    with _figure(2.9) as (figure, axes):
        _stack(axes, range(24), hours, width=0.9)
        axes.set_xticks(range(0, 24, 3), [f"{hour:02d}" for hour in range(0, 24, 3)])
        axes.set_xlabel("hour of the day")
        _values(axes.yaxis, "calls", integer=True)
        return _svg(figure, "hours")


def draw_days(days: Mapping[date, Tally], period: Period) -> Markup:
    """Calls by day, and below them their ASR in percent, with gaps for days without calls."""
    with _figure(3.6, rows=2) as (figure, (attempts, rate)):
        dates = list(days)
        attempts.bar(dates, [tally.calls for tally in days.values()], width=_bar(period), facecolor=SERIES[0])
        _values(attempts.yaxis, "calls", integer=True)
        shares = [tally.answer_rate for tally in days.values()]
        rate.plot(dates, [float("nan") if one is None else 100 * one for one in shares],
                  color=SERIES[1], marker="o", markersize=2.5, linewidth=1.2)  # fmt: skip
        rate.set_ylim(0, 100)
        rate.set_ylabel("ASR, %")
        _dates(rate)
        return _svg(figure, "days")


def draw_talk_times(labels: Sequence[str], counts: Sequence[int]) -> Markup:
    """Answered calls by range of talk time."""
    with _figure(2.7) as (figure, axes):
        rows = range(len(labels))
        axes.barh(rows, counts, facecolor=SERIES[0], height=0.8)
        axes.set_yticks(rows, labels)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_xlim(0, max(1, *counts) * 1.12)
        _values(axes.xaxis, "answered calls", integer=True)
        for row, count in zip(rows, counts, strict=True):
            axes.annotate(f"{count:,}", (count, row), (3, 0), textcoords="offset points", va="center", size=8)
        return _svg(figure, "talk-times")


def draw_spend(spend: Mapping[date, Mapping[str, Decimal | None]], period: Period, name: str) -> Markup:
    """An account's billed rates by day, stacked by country; "" stands for all other countries."""
    with _figure(3.0) as (figure, axes):
        countries = next(iter(spend.values()), {})
        series = {one: [float(of_day[one] or 0) for of_day in spend.values()] for one in countries}
        _stack(axes, list(spend), series, width=_bar(period))
        _values(axes.yaxis, "billed rate, account's currency")
        _dates(axes)
        return _svg(figure, name)


def draw_balance(balance: Balance, period: Period, name: str) -> Markup:
    """An account's balance over time, with a triangle at each of the largest top-ups."""
    with _figure(2.7) as (figure, axes):
        points = balance.curve.values()
        axes.plot([at for at, _ in points], [float(amount) for _, amount in points],
                  drawstyle="steps-post", color=SERIES[0], linewidth=1.2)  # fmt: skip
        for rise in balance.largest_top_ups:
            axes.plot(rise.at, float(rise.after), "^", color=SERIES[1], markersize=6)
        if not period.is_by_month:
            axes.set_xlim(period.since, period.until)
        _values(axes.yaxis, "balance")
        _dates(axes, period.zone)
        return _svg(figure, name)


def _stack(axes: Axes, x: Any, series: Mapping[str, Sequence[float]], *, width: float) -> None:
    bottom = [0.0] * len(x)
    for number, (label, values) in enumerate(series.items()):
        colour = SERIES[number] if label and number < len(SERIES) else _REST
        axes.bar(x, values, bottom=bottom, width=width, facecolor=colour)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]


def _values(axis: Axis, label: str, *, integer: bool = False) -> None:
    axis.set_label_text(label)
    axis.set_major_locator(MaxNLocator(5, integer=integer))
    axis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))


def _dates(axes: Axes, zone: tzinfo = UTC) -> None:
    """Format the time axis: dates, or instants in a zone."""
    locator = AutoDateLocator(zone, minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, zone, show_offset=False))


def _bar(period: Period) -> float:
    return 26.0 if period.is_by_month else 0.9  # days


def _svg(figure: Figure, name: str) -> Markup:
    """The figure as an element of a page, with unique IDs and the page's colours and font.

    It is safe as HTML, because only numbers and dates of the data are in it.
    """
    text = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(text, metadata=no_metadata)
    svg = " ".join(text.getvalue().split())
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs> <style .*?</style> </defs>|font-family: [^;]*; ", "", svg)
    svg = re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub("#0101[01][0-9]", lambda found: _VARIABLES[found[0]], svg)
    svg = re.sub(r'^<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg)
    return Markup(svg)  # noqa: S704 (made here)
