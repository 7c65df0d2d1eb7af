"""The pages for readers: every link leads somewhere, and the breaker's rules are those of the code."""

from __future__ import annotations

import re

import pytest
from support.tools import OPERATE, TOP, anchors_in, tables_in

from etl.cdr.breaker import RULES, Verdict

PAGES = sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")])
WORDS = {
    Verdict.HOLD: "wait",
    Verdict.ASK_CANARY: "fetch the canary",
    Verdict.COUNT: "count",
    Verdict.API_DOWN: "API down",
    Verdict.REFUSED: "credentials rejected",
}


def broken_links(page):
    """The links of a page to files or headings that do not exist."""
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)", page.read_text())
    targets = [((page.parent / file) if file else page, anchor) for file, anchor in links]
    return [
        f"{target}#{anchor}"
        for target, anchor in targets
        if not target.exists() or (anchor and anchor not in anchors_in(target.read_text()))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    assert broken_links(page) == []


def test_a_broken_link_is_detected(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n\n[a](#one) [b](#two) [c](page.md#one) [d](gone.md) [e](https://example.com#x)\n")

    assert broken_links(page) == [f"{page}#two", f"{tmp_path / 'gone.md'}#"]


def test_the_documented_rules_of_the_breaker_are_those_of_the_code_in_their_order():
    _states, rules, _results = tables_in(OPERATE.read_text(), "Circuit breaker")

    assert [(name, result) for name, _, result in rules] == [
        (name, WORDS[verdict]) for name, _, verdict in RULES
    ]
    assert all(condition for _, condition, _ in rules)


def test_every_verdict_of_the_breaker_is_documented_with_what_the_run_does():
    *_, results = tables_in(OPERATE.read_text(), "Circuit breaker")

    assert sorted(word for word, _ in results) == sorted(WORDS.values())
    assert WORDS.keys() == set(Verdict)
