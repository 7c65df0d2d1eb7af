"""A report as tables and bars in the terminal, with the numbers of the page. Needs no extra."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etl.report.figures import OUTCOMES, Balance, Traffic
from etl.report.reading import Report
from etl.report.words import (
    ACD,
    ASR,
    CHECKS,
    TALK_TIME_LABELS,
    TOP_UPS,
    WEEKDAYS,
    balance_text,
    counted,
    coverage_sentences,
    decimals_of,
    duration,
    instant,
    money,
    number,
    percent,
    period_text,
)

_BAR = 24  # columns of the longest bar: all lines fit into 60 columns
_DESTINATIONS = 12


def print_report(report: Report) -> None:
    """Print the report on stdout; in colour on a terminal, unless NO_COLOR is set."""
    console = Console(file=sys.stdout, highlight=False, markup=False)
    console.print(f"Calls, {period_text(report.period)}{', masked' if report.is_masked else ''}")
    if report.as_of is not None:
        console.print(f"Data as of {instant(report.as_of)}")
    _print_completeness(console, report)
    if report.traffic.total.calls:
        _print_key_figures(console, report.traffic)
        _print_bar_charts(console, report.traffic)
        _print_week(console, report.traffic)
        _print_half_answered(console, report.traffic)
        _print_destinations(console, report.traffic)
        _print_balances(console, report.balances)
    else:
        console.print("\nNo calls of this period are stored.")
    _print_title(console, "Data quality")
    rows = [(name, number(check.count), CHECKS.get(name, "")) for name, check in report.checks.items()]
    _print_table(console, ("check", "findings", "meaning"), rows, text_columns=(0, 2))


def _print_completeness(console: Console, report: Report) -> None:
    _print_title(console, "Completeness")
    for sentence in coverage_sentences(report.coverage):
        console.print(sentence)
    accounts = dict(report.coverage.accounts)
    if len(accounts) > 1:
        accounts["all"] = report.coverage.total
    rows = [(account, *(number(counts[name]) for name in OUTCOMES)) for account, counts in accounts.items()]
    if rows:
        _print_table(console, ("requests of", *OUTCOMES), rows)


def _print_key_figures(console: Console, traffic: Traffic) -> None:
    _print_title(console, "Key figures")
    tallies = list(traffic.accounts.items())
    decimals = decimals_of(tally.billed_rate_total for _, tally in tallies)
    if len(tallies) > 1:
        tallies.append(("all", traffic.total))
    _print_table(
        console,
        ("account", "calls", "answered", "ASR", "ACD", "talk time"),
        [
            (name, number(tally.calls), number(tally.answered_calls), percent(tally.answer_rate),
             duration(tally.avg_talk_seconds), duration(tally.talk_seconds))
            for name, tally in tallies
        ],
    )  # fmt: skip
    console.print()
    _print_table(
        console,
        ("account", "billed rates", "legs", "without rate", "answered, duration unknown"),
        [
            (name, "not added up" if tally is traffic.total else money(tally.billed_rate_total, decimals),
             number(tally.legs), number(tally.legs_without_rate), number(tally.answered_without_duration))
            for name, tally in tallies
        ],
    )  # fmt: skip
    console.print(f"{ASR} {ACD}", style="dim")


def _print_bar_charts(console: Console, traffic: Traffic) -> None:
    hours, answered = Counter[int](), Counter[int]()
    for (hour, status), count in traffic.hours.items():
        hours[hour] += count
        answered[hour] += count if status.lower() == "answered" else 0
    _print_title(console, "Calls by hour")
    _print_bars(
        console, [(f"{hour:02d}", hours[hour], f"{number(answered[hour])} answered") for hour in range(24)]
    )
    _print_title(console, "Calls by status")
    _print_bars(console, [(status, count, "") for status, count in traffic.statuses.items()])
    is_by_month = traffic.period.is_by_month
    _print_title(console, f"Calls and ASR by {'month' if is_by_month else 'day'}")
    day_format = "%Y-%m" if is_by_month else "%a %Y-%m-%d"
    _print_bars(
        console,
        [
            (f"{day:{day_format}}", tally.calls, percent(tally.answer_rate))
            for day, tally in traffic.days.items()
        ],
    )
    _print_title(console, "Talk time of answered calls")
    _print_bars(console, [(*row, "") for row in zip(TALK_TIME_LABELS, traffic.talk_times, strict=True)])


def _print_week(console: Console, traffic: Traffic) -> None:
    _print_title(console, "Calls by hour and weekday")
    rows = [(f"{hour:02d}", *(number(traffic.week[day, hour]) for day in range(7))) for hour in range(24)]
    _print_table(console, ("hour", *WEEKDAYS), rows)


def _print_half_answered(console: Console, traffic: Traffic) -> None:
    _print_title(console, "Leg a answered, leg b not")
    share = f": {percent(traffic.half_answered / traffic.a_answered)}" if traffic.a_answered else ""
    console.print(
        f"{number(traffic.half_answered)} of {number(traffic.a_answered)} calls with an answered leg a and "
        f"a leg b{share}"
    )


def _print_destinations(console: Console, traffic: Traffic) -> None:
    for account in traffic.accounts:
        _print_title(console, f"Spend by destination, account {account}")
        destinations = list(traffic.destinations(account).items())
        decimals = decimals_of(tally.billed_rate_total for _, tally in destinations)
        rows = [
            (country, number(tally.calls), percent(tally.answer_rate),
             money(tally.billed_rate_total, decimals), number(tally.legs_without_rate))
            for country, tally in destinations[:_DESTINATIONS]
        ]  # fmt: skip
        _print_table(console, ("country", "calls", "ASR", "billed rates", "legs without rate"), rows)
        if further := len(destinations) - len(rows):
            console.print(f"and {counted(further, 'more destination', 'more destinations')}")


def _print_balances(console: Console, balances: Sequence[Balance]) -> None:
    for balance in balances:
        _print_title(console, f"Balance, account {balance.account}")
        console.print(balance_text(balance))
        legs = counted(balance.legs, "leg", "legs")
        console.print(f"{number(balance.legs_without_balance)} of {legs} have no balance.")
    if any(balance.top_ups for balance in balances):
        console.print(f"\n{TOP_UPS}", style="dim")


def _print_title(console: Console, text: str) -> None:
    console.print()
    console.print(text, style="bold")


def _print_bars(console: Console, rows: Sequence[tuple[str, int, str]]) -> None:
    """Print one line per row: label, number, a bar in proportion to the largest number, and a remark."""
    most = max((count for _, count, _ in rows), default=0) or 1
    block = "█" if (console.encoding or "").lower().startswith("utf") else "#"
    grid = Table.grid(padding=(0, 1))
    for justify in ("left", "right", "left", "right"):
        grid.add_column(justify=justify, overflow="fold")
    for label, count, remark in rows:
        length = round(_BAR * count / most) or int(count > 0)
        grid.add_row(
            Text(label), number(count), Text(block * length, style="blue"), Text(remark, style="dim")
        )
    console.print(grid)


def _print_table(
    console: Console,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text_columns: Sequence[int] = (0,),
) -> None:
    rows = list(rows)
    if not rows:
        console.print("None.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for n, heading in enumerate(headings):
        table.add_column(heading, justify="left" if n in text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
