"""A report as one HTML file without scripts, and without fonts or images from elsewhere.

Programs find the numbers of its tables and key figures in the attribute `data-value`, without units: seconds,
shares of 0 to 1, nothing where a value is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from etl import __version__
from etl.report import drawing, words
from etl.report.figures import OUTCOMES
from etl.report.reading import Report

_COLOURS = len(drawing.SERIES)
_ACCOUNTS = 12  # with charts of their own
_DESTINATIONS = 30  # rows of a table
_FILTERS = (
    words.balance_decimals,
    words.balance_text,
    words.counted,
    words.duration,
    words.instant,
    words.money,
    words.number,
    words.percent,
    words.raw,
)


def render_page(report: Report) -> str:
    """The report as HTML. The same report makes the same bytes."""
    environment = Environment(
        loader=PackageLoader("etl", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {filter_.__name__: filter_ for filter_ in _FILTERS} | {"code": _code}
    return environment.get_template("page.html").render(
        report=report,
        words=words,
        version=__version__,
        span=words.period_text(report.period),
        outcomes=OUTCOMES,
        sentences=words.coverage_sentences(report.coverage),
        **(_sections_on_calls(report) if report.traffic.total.calls else {"spends": [], "balances": []}),
    )


def _sections_on_calls(report: Report) -> dict[str, object]:
    """Charts and numbers that only a period with calls has."""
    traffic, period = report.traffic, report.period
    hours = {status: [0] * 24 for status in _with_colours(list(traffic.statuses))}
    for (hour, status), count in traffic.hours.items():
        hours[status if status in hours else ""][hour] += count
    accounts = list(traffic.accounts)[:_ACCOUNTS]
    return {
        "charts": {
            "hours": drawing.draw_hours(hours),
            "days": drawing.draw_days(traffic.days, period),
            "talk_times": drawing.draw_talk_times(words.TALK_TIME_LABELS, traffic.talk_times),
        },
        "hours": hours,
        "decimals": words.decimals_of(tally.billed_rate_total for tally in traffic.accounts.values()),
        "busiest_hour": max(range(24), key=lambda hour: sum(counts[hour] for counts in hours.values())),
        "busiest_day": max(traffic.days, key=lambda day: traffic.days[day].calls),
        "busiest_slot": max(sorted(traffic.week), key=lambda slot: traffic.week[slot]),
        "commonest_talk_time": max(range(len(traffic.talk_times)), key=lambda n: traffic.talk_times[n]),
        "spends": [_spend(report, account, f"spend{n}") for n, account in enumerate(accounts)],
        "balances": [
            (balance, drawing.draw_balance(balance, period, f"balance{n}"))
            for n, balance in enumerate(report.balances[:_ACCOUNTS])
        ],
    }


def _with_colours(names: Sequence[str]) -> Sequence[str]:
    """The names that get a colour of their own; if there are too many, the last is "" for all others."""
    return names if len(names) <= _COLOURS else [*names[: _COLOURS - 1], ""]


def _spend(report: Report, account: str, name: str) -> dict[str, object]:
    """What an account spent, by day and by country called."""
    destinations = report.traffic.destinations(account)
    paid = [country for country, tally in destinations.items() if tally.billed_rate_total]
    countries = [country for country in _with_colours(paid) if country]
    days = report.traffic.spend_by_day(account, countries)
    if not any(amounts[""] for amounts in days.values()):
        days = {day: {country: amounts[country] for country in countries} for day, amounts in days.items()}
    totals = [tally.billed_rate_total for tally in destinations.values()]
    by_day = [amount for amounts in days.values() for amount in amounts.values()]
    return {
        "account": account,
        "chart": drawing.draw_spend(days, report.period, name),
        "countries": list(next(iter(days.values()))),  # the columns of `days`; "" stands for all others
        "days": days,
        "destinations": list(destinations.items())[:_DESTINATIONS],
        "further": max(0, len(destinations) - _DESTINATIONS),  # destinations that are not listed
        "decimals": words.decimals_of([*totals, *by_day]),
    }


def _code(sentence: str) -> Markup:
    """A sentence in which text between backticks is code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if n % 2 else part
        for n, part in enumerate(sentence.split("`"))
    )
