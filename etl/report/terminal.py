"""A report as bars in the terminal: the same numbers as on the page, in 80 columns."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etl.report.coverage import OUTCOMES
from etl.report.figures import CLASSES, Tally
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
)

_BAR = 24  # columns of the longest bar
_SHADES = " ░▒▓█"
_DESTINATIONS = 12


def print_report(report: Report) -> None:
    """Print the report on stdout; in colour on a terminal, unless NO_COLOR is set."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    period, traffic = report.period, report.traffic
    console.print(
        f"Calls from {period.since:%Y-%m-%d %H:%M} up to, and without, {period.until:%Y-%m-%d %H:%M}, "
        f"{period.zone_name}" + (", masked" if report.is_masked else ""),
        markup=False,
    )
    _print_coverage(console, report)
    if traffic.all.calls:
        _print_calls(console, report)
    else:
        console.print("\nNo call of this period is stored.")
    _title(console, "Findings about the data")
    rows = [
        (name, number(check.count), CHECKS.get(name, "")) for name, check in sorted(traffic.checks.items())
    ]
    _print_table(console, ("check", "findings", "what it says"), rows, texts=(0, 2))


def _print_coverage(console: Console, report: Report) -> None:
    _title(console, "How complete this is")
    for sentence in report.coverage.sentences():
        console.print(sentence, markup=False)
    rows: list[Sequence[str]] = [
        (account, *map(number, counts.values())) for account, counts in report.coverage.accounts.items()
    ]
    if len(rows) > 1:
        rows.append(("all", *map(number, report.coverage.total.values())))
    if rows:
        _print_table(console, ("requests of", *(name.replace("_", " ") for name in OUTCOMES)), rows)


def _print_calls(console: Console, report: Report) -> None:
    traffic, period = report.traffic, report.period
    _title(console, "Key figures")
    tallies = [*sorted(traffic.accounts.items())]
    if len(tallies) > 1:
        tallies.append(("all", traffic.all))
    names = ("account", "calls", "answered", "ASR", "ACD", "talk time")
    _print_table(console, names, [(name, *_talk(tally)) for name, tally in tallies])
    places = places_of(tally.billed for _, tally in tallies)
    _print_table(
        console,
        ("account", "billed rates", "legs", "without rate", "answered, duration unknown"),
        [(name, *_billing(tally, places, is_sum=tally is traffic.all)) for name, tally in tallies],
    )
    _title(console, "Calls by hour")
    hours, answered = Counter[int](), Counter[int]()
    for (hour, status), count in traffic.hours.items():
        hours[hour] += count
        answered[hour] += count if status.lower() == "answered" else 0
    _print_bars(console, [(f"{hour:02d}", hours[hour], _of_status(answered[hour])) for hour in range(24)])
    _title(console, "Calls by status")
    statuses = Counter[str]()
    for (_, status), count in traffic.hours.items():
        statuses[status] += count
    _print_bars(console, [(status, statuses[status], "") for status in traffic.statuses(len(statuses))])
    _title(console, f"Calls and answer rate by {'month' if period.is_by_month else 'day'}")
    days = [(day, traffic.days.get(day, Tally())) for day in traffic.shown_days()]
    shape = "%Y-%m" if period.is_by_month else "%a %Y-%m-%d"
    _print_bars(console, [(f"{day:{shape}}", tally.calls, percent(tally.answer_rate)) for day, tally in days])
    _title(console, "Talk time of answered calls")
    _print_bars(console, [(class_label(n), traffic.classes[n], "") for n in range(len(CLASSES))])
    _print_week(console, report)
    _print_half_answered(console, report)
    _print_money(console, report)


def _talk(tally: Tally) -> tuple[str, ...]:
    average, talk = lasting(tally.average_talk_seconds), lasting(tally.talk_seconds)
    return number(tally.calls), number(tally.answered), percent(tally.answer_rate), average, talk


def _billing(tally: Tally, places: int, *, is_sum: bool) -> tuple[str, ...]:
    counts = (tally.legs, tally.legs_without_rate, tally.unmeasured)
    return ("not added up" if is_sum else money(tally.billed, places), *map(number, counts))


def _of_status(answered: int) -> str:
    return f"{number(answered)} answered"


def _print_week(console: Console, report: Report) -> None:
    _title(console, "Calls by hour and weekday")
    week = report.traffic.week
    rows = [(f"{hour:02d}", *(number(week[day, hour]) for day in range(7))) for hour in range(24)]
    _print_table(console, ("hour", *WEEKDAYS), rows)


def _print_half_answered(console: Console, report: Report) -> None:
    traffic = report.traffic
    _title(console, "Leg a answered, leg b not")
    share = f": {percent(traffic.half_answered / traffic.connected)}" if traffic.connected else ""
    console.print(
        f"{number(traffic.half_answered)} of {number(traffic.connected)} calls whose leg a was answered and "
        f"which have a leg b{share}"
    )


def _print_money(console: Console, report: Report) -> None:
    """Spend and balance, account by account: each has a currency of its own."""
    traffic = report.traffic
    for account in sorted(traffic.accounts):
        _title(console, f"Spend by destination, account {account}")
        destinations = list(traffic.destinations(account).items())
        places = places_of(tally.billed for _, tally in destinations)
        rows = [
            (country, number(tally.calls), percent(tally.answer_rate), money(tally.billed, places),
             number(tally.legs_without_rate))
            for country, tally in destinations[:_DESTINATIONS]
        ]  # fmt: skip
        _print_table(console, ("country", "calls", "ASR", "billed rates", "legs without rate"), rows)
        if further := len(destinations) - len(rows):
            console.print(f"and {number(further)} further destinations")
    for balance in report.balances:
        _title(console, f"Balance, account {balance.account}")
        console.print(gist_of(balance))
        console.print(
            f"{number(balance.legs_without_balance)} of {number(balance.legs)} legs have no balance."
        )
    if any(balance.top_ups for balance in report.balances):
        console.print(f"\n{TOP_UPS}")


def _title(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold"))


def _print_bars(console: Console, rows: Sequence[tuple[str, int, str]]) -> None:
    """A line each: label, number, a bar in proportion to the largest, and a remark."""
    most = max((count for _, count, _ in rows), default=0) or 1
    block = "█" if (console.encoding or "").lower().startswith("utf") else "#"
    grid = Table.grid(padding=(0, 1))
    for justify in ("left", "right", "left", "right"):
        grid.add_column(justify=justify, overflow="fold")
    for label, count, remark in rows:
        length = round(_BAR * count / most) or (1 if count else 0)
        grid.add_row(
            Text(label), number(count), Text(block * length, style="blue"), Text(remark, style="dim")
        )
    console.print(grid)


def _print_table(
    console: Console, names: Sequence[str], rows: Iterable[Sequence[str]], *, texts: Sequence[int] = (0,)
) -> None:
    rows = list(rows)
    if not rows:
        console.print("None.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for n, name in enumerate(names):
        table.add_column(name, justify="left" if n in texts else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
