"""A report as tables and bars in the terminal, with the numbers of the page. Needs no extra."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from etl.report import words
from etl.report.figures import OUTCOMES, Balance, Traffic
from etl.report.reading import Report

Row = Sequence[str | int]
_BAR = 24  # columns of the longest bar: all lines fit into 60 columns
_DESTINATIONS = 12


def print_report(report: Report) -> None:
    """Print the report on stdout; in colour on a terminal, unless NO_COLOR is set."""
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    console.print(f"Calls, {words.period_text(report.period)}{', masked' if report.is_masked else ''}")
    if report.as_of is not None:
        console.print(f"Data as of {words.instant(report.as_of)}")
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
    rows = [(name, check.count, words.CHECKS.get(name, "")) for name, check in report.checks.items()]
    _print_table(console, ("check", "findings", "meaning"), rows, text_columns=(0, 2))


def _print_completeness(console: Console, report: Report) -> None:
    _print_title(console, "Completeness")
    for sentence in words.coverage_sentences(report.coverage):
        console.print(sentence)
    accounts = dict(report.coverage.accounts)
    if len(accounts) > 1:
        accounts["all"] = report.coverage.total
    rows: list[Row] = [
        (account, *(counts[name] for name in OUTCOMES)) for account, counts in accounts.items()
    ]
    if rows:
        _print_table(console, ("requests of", *(name.replace("_", " ") for name in OUTCOMES)), rows)


def _print_key_figures(console: Console, traffic: Traffic) -> None:
    _print_title(console, "Key figures")
    decimals = words.decimals_of(tally.billed_rate_total for tally in traffic.accounts.values())
    tallies = list(traffic.accounts.items())
    if len(tallies) > 1:
        tallies.append(("all", traffic.total))
    talk: list[Row] = [
        (name, tally.calls, tally.answered_calls, words.percent(tally.answer_rate),
         words.duration(tally.avg_talk_seconds), words.duration(tally.talk_seconds))
        for name, tally in tallies
    ]  # fmt: skip
    billing: list[Row] = [
        (name, "not added up" if tally is traffic.total else words.money(tally.billed_rate_total, decimals),
         tally.legs, tally.legs_without_rate, tally.answered_without_duration)
        for name, tally in tallies
    ]  # fmt: skip
    _print_table(console, ("account", "calls", "answered", "ASR", "ACD", "talk time"), talk)
    console.print()
    headings = ("account", "billed rates", "legs", "without rate", "answered, duration unknown")
    _print_table(console, headings, billing)
    console.print(f"{words.ASR} {words.ACD}", style="dim")


def _print_bar_charts(console: Console, traffic: Traffic) -> None:
    hours, answered = Counter[int](), Counter[int]()
    for (hour, status), count in traffic.hours.items():
        hours[hour] += count
        answered[hour] += count if status.lower() == "answered" else 0
    rows = [(f"{hour:02d}", hours[hour], f"{answered[hour]:,} answered") for hour in range(24)]
    _print_bars(console, "Calls by hour", rows)
    _print_bars(console, "Calls by status", [(*row, "") for row in traffic.statuses.items()])
    is_by_month = traffic.period.is_by_month
    day_format = "%Y-%m" if is_by_month else "%a %Y-%m-%d"
    rows = [
        (f"{day:{day_format}}", tally.calls, words.percent(tally.answer_rate))
        for day, tally in traffic.days.items()
    ]
    _print_bars(console, f"Calls and ASR by {'month' if is_by_month else 'day'}", rows)
    talk_times = zip(words.TALK_TIME_LABELS, traffic.talk_times, strict=True)
    _print_bars(console, "Talk time of answered calls", [(*row, "") for row in talk_times])


def _print_week(console: Console, traffic: Traffic) -> None:
    _print_title(console, "Calls by hour and weekday")
    rows: list[Row] = [(f"{hour:02d}", *(traffic.week[day, hour] for day in range(7))) for hour in range(24)]
    _print_table(console, ("hour", *words.WEEKDAYS), rows)


def _print_half_answered(console: Console, traffic: Traffic) -> None:
    _print_title(console, "Leg a answered, leg b not")
    half, both = traffic.half_answered, traffic.a_answered
    share = f": {words.percent(half / both)}" if both else ""
    console.print(f"{half:,} of {both:,} calls with an answered leg a and a leg b{share}")


def _print_destinations(console: Console, traffic: Traffic) -> None:
    for account in traffic.accounts:
        _print_title(console, f"Spend by destination, account {account}")
        destinations = list(traffic.destinations(account).items())
        decimals = words.decimals_of(tally.billed_rate_total for _, tally in destinations)
        rows = [
            (country, tally.calls, words.percent(tally.answer_rate),
             words.money(tally.billed_rate_total, decimals), tally.legs_without_rate)
            for country, tally in destinations[:_DESTINATIONS]
        ]  # fmt: skip
        _print_table(console, ("country", "calls", "ASR", "billed rates", "legs without rate"), rows)
        if further := len(destinations) - len(rows):
            console.print(f"and {words.counted(further, 'more destination', 'more destinations')}")


def _print_balances(console: Console, balances: Sequence[Balance]) -> None:
    for balance in balances:
        _print_title(console, f"Balance, account {balance.account}")
        console.print(words.balance_text(balance))
        legs = words.counted(balance.legs, "leg", "legs")
        console.print(f"{balance.legs_without_balance:,} of {legs} have no balance.")
    if any(balance.top_ups for balance in balances):
        console.print(f"\n{words.TOP_UPS}", style="dim")


def _print_title(console: Console, text: str) -> None:
    console.print(f"\n{text}", style="bold")


def _print_bars(console: Console, title: str, rows: Sequence[tuple[str, int, str]]) -> None:
    """Print one line per row: label, number, a bar in proportion to the largest number, and a remark."""
    _print_title(console, title)
    most = max((count for _, count, _ in rows), default=0) or 1
    block = "█" if (console.encoding or "").lower().startswith("utf") else "#"
    grid = Table.grid(padding=(0, 1))
    for justify in ("left", "right", "left", "right"):
        grid.add_column(justify=justify, overflow="fold")
    for label, count, remark in rows:
        length = round(_BAR * count / most) or int(count > 0)
        grid.add_row(
            Text(label), words.number(count), Text(block * length, style="blue"), Text(remark, style="dim")
        )
    console.print(grid)


def _print_table(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[Row],
    *,
    text_columns: Sequence[int] = (0,),
) -> None:
    if not rows:
        console.print("None.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for n, heading in enumerate(headings):
        table.add_column(heading, justify="left" if n in text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell if isinstance(cell, str) else words.number(cell)) for cell in row))
    console.print(table)
