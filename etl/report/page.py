"""A report as one HTML file that needs nothing else: no script, no font, no image from anywhere.

The numbers of its tables and key figures stand in it twice: for people, and as they are in the attribute
`data-value`, so that programs find them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from etl import __version__
from etl.report import drawing
from etl.report.balances import Balance
from etl.report.figures import CLASSES, Tally, Traffic
from etl.report.reading import Report
from etl.report.words import (
    CHECKS,
    TOP_UPS,
    WEEKDAYS,
    class_label,
    gist_of,
    lasting,
    money,
    number,
    percent,
    places_of,
    raw,
)

_SERIES = len(drawing.SERIES) - 1  # told apart in a plot; all others are one more
_ACCOUNTS = 12  # whose money is drawn and told by day
_DESTINATIONS = 30


@dataclass(frozen=True, slots=True)
class Spend:
    """What an account spent: a plot, and the tables beside it."""

    account: str
    all: Tally
    plot: Markup
    countries: Sequence[str]  # as the plot tells them apart; "" is all others
    days: Mapping[date, Mapping[str, Decimal | None]]
    destinations: Sequence[tuple[str, Tally]]
    further: int  # destinations that are not listed
    places: int  # of its amounts, behind the point


@dataclass(frozen=True, slots=True)
class BalancePlot:
    """How an account's balance went: a plot, and the numbers beside it."""

    balance: Balance
    gist: str
    plot: Markup
    places: int  # of its amounts, behind the point


def render_page(report: Report) -> str:
    """Write the page.

    Args:
        report: what it tells.

    Returns:
        HTML; the same report gives the same bytes.
    """
    environment = Environment(
        loader=PackageLoader("etl", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "money": money,
        "percent": percent,
        "lasting": lasting,
        "raw": raw,
        "code": _code,
    }
    return environment.get_template("page.html").render(
        report=report,
        traffic=report.traffic,
        period=report.period,
        coverage=report.coverage,
        version=__version__,
        weekdays=WEEKDAYS,
        check_words=CHECKS,
        top_ups=TOP_UPS,
        class_labels=[class_label(n) for n in range(len(CLASSES))],
        **(_of_calls(report) if report.traffic.all.calls else {"plots": {}, "spends": [], "balances": []}),
    )


def _of_calls(report: Report) -> dict[str, object]:
    """What only a period with calls has."""
    traffic = report.traffic
    statuses = statuses_shown(traffic)
    hours = {status: [0] * 24 for status in statuses}
    for (hour, status), count in traffic.hours.items():
        hours[status if status in hours else ""][hour] += count
    days = {day: traffic.days.get(day, Tally()) for day in traffic.shown_days()}
    labels = [class_label(n) for n in range(len(CLASSES))]
    plots = {
        "hours": drawing.draw_hours(hours),
        "days": drawing.draw_days(days, report.period),
        "classes": drawing.draw_classes(labels, traffic.classes),
    }
    accounts = sorted(traffic.accounts)
    return {
        "plots": {name: _drawn(svg) for name, svg in plots.items()},
        "hours": hours,
        "days": days,
        "places": places_of(tally.billed for tally in traffic.accounts.values()),
        "busiest_hour": max(range(24), key=lambda hour: sum(row[hour] for row in hours.values())),
        "busiest_day": max(days, key=lambda day: days[day].calls),
        "busiest_slot": max(sorted(traffic.week), key=lambda slot: traffic.week[slot]),
        "commonest_class": max(range(len(CLASSES)), key=lambda n: traffic.classes[n]),
        "spends": [_spend(report, name, f"spend{n}") for n, name in enumerate(accounts[:_ACCOUNTS])],
        "balances": [
            BalancePlot(
                one,
                gist_of(one),
                _drawn(drawing.draw_balance(one, report.period, f"balance{n}")),
                places_of(one.amounts),
            )
            for n, one in enumerate(report.balances[:_ACCOUNTS])
        ],
    }


def _drawn(svg: str) -> Markup:
    return Markup(svg)  # noqa: S704 (of our own making, and holds no data but numbers and dates)


def _code(sentence: str) -> Markup:
    """A sentence in which what stands between backticks is code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if n % 2 else part
        for n, part in enumerate(sentence.split("`"))
    )


def statuses_shown(traffic: Traffic) -> list[str]:
    """The statuses that are told apart; "" at their end for all others, where there are more."""
    known = traffic.statuses(_SERIES + 2)
    return known if len(known) <= _SERIES + 1 else [*known[:_SERIES], ""]


def _spend(report: Report, account: str, name: str) -> Spend:
    destinations = report.traffic.destinations(account)
    paid = [country for country, tally in destinations.items() if tally.billed]
    countries = paid if len(paid) <= _SERIES + 1 else paid[:_SERIES]
    days = report.traffic.spend_by_day(account, countries)
    if not any(of_day[""] for of_day in days.values()):
        days = {day: {country: of_day[country] for country in countries} for day, of_day in days.items()}
    by_day = (amount for of_day in days.values() for amount in of_day.values())
    return Spend(
        account=account,
        all=report.traffic.accounts[account],
        plot=_drawn(drawing.draw_spend(days, report.period, name)),
        countries=list(next(iter(days.values()))),
        days=days,
        destinations=list(destinations.items())[:_DESTINATIONS],
        further=max(0, len(destinations) - _DESTINATIONS),
        places=places_of([*(tally.billed for tally in destinations.values()), *by_day]),
    )
