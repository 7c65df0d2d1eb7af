"""docs/operate.md shows the rules of the circuit breaker as they are in etl/cdr/breaker.py."""

from __future__ import annotations

from support.tools import OPERATE, tables_in

from etl.cdr.breaker import RULES, Verdict

WORDS = {
    Verdict.HOLD: "wait",
    Verdict.ASK_CANARY: "fetch the canary",
    Verdict.COUNT: "count",
    Verdict.API_DOWN: "API down",
    Verdict.REFUSED: "credentials rejected",
}


def test_the_documented_rules_are_those_of_the_code_in_their_order():
    _states, rules, _results = tables_in(OPERATE.read_text(), "Circuit breaker")

    assert [(name, result) for name, _, result in rules] == [
        (name, WORDS[verdict]) for name, _, verdict in RULES
    ]
    assert all(condition for _, condition, _ in rules)


def test_every_verdict_is_documented_with_what_the_run_does():
    *_, results = tables_in(OPERATE.read_text(), "Circuit breaker")

    assert sorted(word for word, _ in results) == sorted(WORDS.values())
    assert WORDS.keys() == set(Verdict)
