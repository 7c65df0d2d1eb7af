"""Which leg of an answer is which row: whatever answers come, in whatever order they list their legs."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from support import builders

from etl.cdr.legs import Leg, LegKey, StoredLeg, compare_legs

NOON = datetime(2021, 11, 16, 12, tzinfo=UTC)


def leg(
    letter="b", to="9100000000", at=NOON, *, seconds=4, rate="0.39", status="answered", extra=None
) -> Leg:
    rate = None if rate is None else Decimal(rate)
    return builders.leg(
        letter, to_number=to, call_time=at, duration_seconds=seconds, rate=rate, status=status, extra=extra
    )


class Rows:
    """The rows of one request, as a database would hold them."""

    def __init__(self):
        self.by_key: dict[LegKey, StoredLeg] = {}

    def apply(self, answer, *, order=sorted):
        changes = compare_legs([self.by_key[key] for key in order(self.by_key)], answer)
        for row in changes.inserted:
            assert row.key not in self.by_key
        for row in (*changes.updated, *changes.vanished):
            assert row.key in self.by_key
        for rows, is_missing in ((changes.inserted + changes.updated, False), (changes.vanished, True)):
            for row in rows:
                assert row.key[:3] == (row.content.leg, row.content.to_number, row.content.call_time)
                self.by_key[row.key] = StoredLeg(row.content, row.key.occurrence, row.revision, is_missing)
        return changes

    @property
    def present(self):
        return [row.content for row in self.by_key.values() if not row.is_missing]


def summary_of(rows):
    """Rows in short: the occurrence, how long it took, its revision, and whether it is missing."""
    return [
        (key.occurrence, row.content.duration_seconds, row.revision, row.is_missing)
        for key, row in sorted(rows.by_key.items())
    ]


# --- One case after the other ------------------------------------------------------------------------


def test_the_first_answer_is_stored_with_revision_1():
    rows = Rows()
    changes = rows.apply([leg("b"), leg("a")])

    assert len(changes.inserted) == changes.leg_count == 2
    assert not changes.is_same
    assert {(key.leg, key.occurrence, row.revision) for key, row in rows.by_key.items()} == {
        ("a", 1, 1),
        ("b", 1, 1),
    }


def test_the_same_answer_again_changes_nothing():
    rows = Rows()
    rows.apply([leg("b"), leg("a")])
    before = dict(rows.by_key)
    changes = rows.apply([leg("a"), leg("b")])

    assert changes.is_same
    assert (changes.unchanged, changes.leg_count) == (2, 2)
    assert rows.by_key == before


def test_legs_equal_in_all_nine_fields_stay_two_rows():
    rows = Rows()
    rows.apply([leg(), leg()])
    again = rows.apply([leg(), leg()])

    assert summary_of(rows) == [(1, 4, 1, False), (2, 4, 1, False)]
    assert again.is_same


def test_a_third_try_to_the_same_number_is_a_third_row():
    rows = Rows()
    rows.apply([leg(), leg()])
    changes = rows.apply([leg(), leg(), leg()])

    assert summary_of(rows) == [(1, 4, 1, False), (2, 4, 1, False), (3, 4, 1, False)]
    assert (len(changes.inserted), changes.unchanged) == (1, 2)


def test_legs_that_differ_in_letter_number_or_time_are_first_occurrences():
    rows = Rows()
    rows.apply([leg("a"), leg("b"), leg(to="9200000000"), leg(at=NOON + timedelta(milliseconds=1))])

    assert [key.occurrence for key in rows.by_key] == [1, 1, 1, 1]


def test_changed_content_is_a_new_revision_of_the_same_row():
    rows = Rows()
    rows.apply([leg(seconds=4, status="ringing")])
    changes = rows.apply([leg(seconds=9)])

    assert summary_of(rows) == [(1, 9, 2, False)]
    assert len(changes.updated) == changes.leg_count == 1


def test_money_that_becomes_known_is_a_change_and_its_trailing_zeros_are_none():
    rows = Rows()
    rows.apply([leg(rate=None)])
    rows.apply([leg(rate="0.39")])
    changes = rows.apply([leg(rate="0.390")])

    assert summary_of(rows) == [(1, 4, 2, False)]
    assert changes.is_same


def test_unknown_money_is_not_0():
    rows = Rows()
    rows.apply([leg(rate=None)])

    assert not rows.apply([leg(rate="0")]).is_same


def test_a_vanished_leg_is_marked_once_and_comes_back_with_its_key_and_revision():
    rows = Rows()
    rows.apply([leg("a"), leg("b")])
    rows.apply([leg("a"), leg("b", seconds=9)])
    vanished = rows.apply([leg("a")])
    still_missing = rows.apply([leg("a")])
    held = dict(rows.by_key)
    back = rows.apply([leg("a"), leg("b", seconds=9)])

    assert [row.key.leg for row in vanished.vanished] == ["b"]
    assert still_missing.is_same
    assert [(row.revision, row.is_missing) for row in held.values()] == [(1, False), (2, True)]
    assert not back.is_same
    assert [(row.revision, row.is_missing) for row in rows.by_key.values()] == [(1, False), (2, False)]


def test_an_answer_without_legs_marks_all_of_them():
    rows = Rows()
    rows.apply([leg("a"), leg(), leg()])
    changes = rows.apply([])

    assert len(changes.vanished) == 3
    assert changes.leg_count == 0
    assert len(rows.by_key) == 3
    assert rows.present == []


def test_the_leg_that_stays_keeps_its_row_where_its_twin_vanishes():
    rows = Rows()
    rows.apply([leg(seconds=4), leg(seconds=9)])
    rows.apply([leg(seconds=9)])

    assert summary_of(rows) == [(1, 4, 1, True), (2, 9, 1, False)]


def test_another_leg_takes_the_free_row_and_not_that_of_the_leg_that_stays():
    rows = Rows()
    rows.apply([leg(seconds=4), leg(seconds=9)])
    rows.apply([leg(seconds=1), leg(seconds=9)])

    assert summary_of(rows) == [(1, 1, 2, False), (2, 9, 1, False)]


def test_a_number_that_is_read_otherwise_leaves_each_twin_its_row_and_a_missing_one_alone():
    """As after a change of the default region."""
    rows = Rows()
    rows.apply([leg(seconds=4), leg(seconds=9)])
    rows.apply([leg(seconds=9)])
    rows.apply([replace(leg(seconds=9), from_e164="+4471000000")])
    assert summary_of(rows) == [(1, 4, 1, True), (2, 9, 2, False)]

    rows.apply([leg(seconds=9)])
    assert summary_of(rows) == [(1, 4, 1, True), (2, 9, 3, False)]


def test_a_twin_that_changes_keeps_its_row_where_the_other_one_is_missing():
    rows = Rows()
    rows.apply([leg(seconds=4), leg(seconds=9)])
    rows.apply([leg(seconds=9)])
    rows.apply([leg(seconds=10)])

    assert summary_of(rows) == [(1, 4, 1, True), (2, 10, 2, False)]


def test_a_change_in_an_unknown_field_is_a_change():
    rows = Rows()
    rows.apply([leg(extra={"queue": "a"})])

    assert rows.apply([leg(extra={"queue": "a"})]).is_same
    assert not rows.apply([leg(extra={"queue": "b"})]).is_same


def test_twins_can_differ_in_unknown_fields_alone():
    rows = Rows()
    rows.apply([leg(extra={"queue": "b"}), leg(extra=None), leg(extra={"queue": ["a"]})])
    again = rows.apply([leg(extra=None), leg(extra={"queue": ["a"]}), leg(extra={"queue": "b"})])

    assert len(rows.by_key) == 3
    assert again.is_same


# --- Any sequence of answers -------------------------------------------------------------------------

LEGS = st.builds(
    leg,
    st.sampled_from(["a", "b"]),
    st.sampled_from(["9100000000", "9200000000", ""]),
    st.sampled_from([NOON, NOON + timedelta(seconds=22)]),
    seconds=st.sampled_from([0, 4, None]),
    rate=st.sampled_from(["0.39", None]),
)
TWINS = st.builds(leg, seconds=st.integers(0, 3), status=st.sampled_from(["missed", "answered", None]))
ANSWERS = st.lists(LEGS, max_size=6) | st.lists(TWINS, max_size=6)


@given(st.lists(ANSWERS, max_size=6), st.integers(0, 2**32))
def test_the_order_of_legs_and_rows_never_matters(answers, seed):
    chance = random.Random(seed)
    rows, others = Rows(), Rows()
    for answer in answers:
        rows.apply(answer)
        others.apply(
            chance.sample(answer, len(answer)), order=lambda keys: chance.sample(list(keys), len(keys))
        )

    assert rows.by_key == others.by_key


@given(st.lists(ANSWERS, min_size=1, max_size=6))
def test_the_rows_that_are_not_missing_are_the_legs_of_the_latest_answer(answers):
    rows = Rows()
    for answer in answers:
        changes = rows.apply(answer)
        assert changes.leg_count == len(answer)
        assert Counter(map(repr, rows.present)) == Counter(map(repr, answer))


@given(st.lists(ANSWERS, min_size=1, max_size=6))
def test_an_answer_applied_twice_changes_nothing_the_second_time(answers):
    rows = Rows()
    for answer in answers:
        rows.apply(answer)
        before = dict(rows.by_key)
        again = rows.apply(list(reversed(answer)))
        assert again.is_same
        assert again.unchanged == again.leg_count == len(answer)
        assert rows.by_key == before


@given(st.lists(ANSWERS, min_size=1, max_size=6))
def test_a_revision_rises_by_one_only_if_the_content_changes(answers):
    rows = Rows()
    for answer in answers:
        before = dict(rows.by_key)
        rows.apply(answer)
        for key, row in rows.by_key.items():
            known = before.get(key)
            expected = 1 if known is None else known.revision + (known.content != row.content)
            assert row.revision == expected


@given(st.lists(ANSWERS, min_size=1, max_size=6))
def test_no_row_is_ever_lost_and_occurrences_count_from_1(answers):
    rows = Rows()
    for answer in answers:
        before = set(rows.by_key)
        rows.apply(answer)
        assert before <= set(rows.by_key)
    highest = Counter(key[:3] for key in rows.by_key)

    for key in rows.by_key:
        assert 1 <= key.occurrence <= highest[key[:3]]


@given(ANSWERS, ANSWERS)
def test_what_vanished_comes_back_into_the_same_rows(answer, more):
    rows = Rows()
    rows.apply(answer + more)
    full = dict(rows.by_key)
    rows.apply(answer)
    changes = rows.apply(more + answer)

    assert not changes.inserted
    assert rows.by_key == full


@given(ANSWERS)
def test_legs_that_come_one_by_one_end_in_as_many_rows_as_those_that_come_at_once(answer):
    growing, at_once = Rows(), Rows()
    for size in range(len(answer) + 1):
        growing.apply(answer[:size])
    at_once.apply(answer)

    assert set(growing.by_key) == set(at_once.by_key)
    assert all(row.revision == 1 for row in growing.by_key.values())
