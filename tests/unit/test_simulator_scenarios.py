import json
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest

from etl.simulator.scenarios import (
    BROKEN,
    CHANGING,
    HEALTHY,
    SAMPLE_REQUEST_ID,
    SCENARIOS,
    VALID,
    legs_at,
    make_request_id,
    parse_faults,
    reply_to,
    scenario_of,
)
from etl.simulator.server import Simulator

EPOCH = 1_700_000_000.25
DOCUMENTED = {"duration", "balance", "rate", "from", "to", "time", "leg", "direction", "status"}
VENDOR_SAMPLE = (
    b'{"count":2,"cdr":['
    b'{"duration":4,"balance":1135.14,"rate":0.39,"from":4471000000,"to":9100000000,'
    b'"time":1637069609000,"leg":"b","direction":"outbound","status":"answered"},'
    b'{"duration":10,"balance":1134.75,"rate":0.39,"from":4471000000,"to":9200000000,'
    b'"time":1637069609000,"leg":"a","direction":"outbound","status":"answered"}],"code":200}'
)


def legs(request_id, asked_before=0, first_asked=None):
    name = scenario_of(request_id)
    return legs_at(name, request_id, epoch=EPOCH, asked_before=asked_before, first_asked=first_asked)


def body(request_id, asked_before=0):
    return json.loads(
        reply_to(scenario_of(request_id), legs(request_id, asked_before), asked_before=asked_before).body
    )


def final_legs(request_id, seed=1, days=1):
    return Simulator(seed=seed, epoch=EPOCH, days=days).legs_of(request_id)


def ends(some_legs):
    return [leg["time"] + int(leg["duration"]) * 1000 for leg in some_legs]


def test_an_id_has_the_same_legs_every_time_and_other_legs_with_another_seed():
    request_id = make_request_id(7)

    assert final_legs(request_id, 1) == final_legs(request_id, 1)
    assert final_legs(request_id, 1) != final_legs(request_id, 2)


def test_the_documented_id_gets_the_documented_answer_byte_for_byte():
    reply = reply_to(scenario_of(SAMPLE_REQUEST_ID), legs(SAMPLE_REQUEST_ID))

    assert (reply.status, reply.body) == (200, VENDOR_SAMPLE)


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_id_that_names_a_scenario_gets_it(name):
    assert scenario_of(name) == name
    assert scenario_of(f"{name}-17", weights={"none": 1.0}) == name


def test_other_ids_get_scenarios_in_the_shares_of_the_mix():
    drawn = Counter(scenario_of(make_request_id(number)) for number in range(5_000))

    assert set(drawn) == set(HEALTHY)
    for name, share in HEALTHY.items():
        assert drawn[name] / 5_000 == pytest.approx(share, abs=0.02)


def test_made_ids_look_like_those_of_the_vendor_and_differ():
    made = [make_request_id(number) for number in range(1_000)]

    assert len(set(made)) == 1_000
    assert all(len(each) == 43 and each.isascii() and each.isalnum() for each in made)
    assert made[5] == make_request_id(5) != make_request_id(5, seed=2)


def test_faults_get_their_shares_and_healthy_answers_get_the_rest():
    weights = parse_faults(" flaky_500=0.05, none = 0.15 ")

    assert (weights["flaky_500"], weights["none"]) == (0.05, 0.15)
    assert weights["answered"] == pytest.approx(0.8 * HEALTHY["answered"])
    assert sum(weights.values()) == pytest.approx(1)


def test_without_faults_the_mix_is_healthy():
    assert parse_faults("") == pytest.approx(HEALTHY)


def test_a_healthy_scenario_can_be_given_a_share_too():
    assert parse_faults("twins=1") == {"twins": 1.0}
    assert scenario_of(make_request_id(1), weights=parse_faults("twins=1")) == "twins"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("flaky_501=0.1", "`flaky_501` is not a scenario. Use one of answered, body_500, "),
        ("none", "`none` has no valid share. Use a number from 0 to 1, such as `none=0.05`"),
        ("none=much", "`none=much` has no valid share. Use a number from 0 to 1, such as `none=0.05`"),
        ("none=nan", "`none=nan` has no valid share"),
        ("none=-0.1", "`none=-0.1` has no valid share"),
        ("none=0.6,late=0.6", "the shares add up to 1.2, which is more than 1"),
    ],
)
def test_an_invalid_mix_is_rejected_with_the_reason(spec, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        parse_faults(spec)


def test_a_demo_of_300_ids_shows_every_scenario_of_its_mix():
    weights = parse_faults("demo")
    drawn = Counter(scenario_of(make_request_id(number), weights=weights) for number in range(300))

    assert set(drawn) == set(weights)
    assert sum(drawn[name] for name in HEALTHY) > 200


def test_calls_of_a_week_fall_on_all_its_days_at_the_same_time_of_day():
    ids = [f"answered-{number}" for number in range(100)]
    of_a_day, of_a_week = ([final_legs(name, days=days)[0]["time"] for name in ids] for days in (1, 7))
    earlier = [divmod(one - other, 86_400_000) for one, other in zip(of_a_day, of_a_week, strict=True)]

    assert {days for days, _ in earlier} == set(range(7))
    assert {rest for _, rest in earlier} == {0}


def test_ordinary_calls_take_place_on_the_day_before_the_epoch_and_end_an_hour_before_it():
    sent = [leg for number in range(50) for leg in legs(f"several_b-{number}")]

    assert max(ends(sent)) < (EPOCH - 3_600) * 1000
    assert min(leg["time"] for leg in sent) > (EPOCH - 86_400) * 1000


@pytest.mark.parametrize("name", HEALTHY)
def test_the_balance_falls_by_each_charge(name):
    sent = legs(f"{name}-1")
    balances = [float(leg["balance"]) for leg in sent]
    charges = [float(leg["rate"]) for leg in sent]

    assert [round(before - after, 2) for before, after in pairwise(balances)] == charges[1:]


@pytest.mark.parametrize("name", sorted((VALID.keys() | CHANGING.keys()) - {"count_mismatch", "not_ready"}))
def test_count_is_the_number_of_legs_on_every_ask(name):
    for asked_before in range(4):
        answer = body(name, asked_before)
        sent = answer["cdr"] if isinstance(answer["cdr"], list) else [answer["cdr"]]

        assert answer["count"] == len(sent)
        assert int(answer.get("code") or answer["cmi_code"]) == 200


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_final_legs_are_those_of_the_last_of_many_answers(name):
    expected = final_legs(name)

    if name in BROKEN or name == "none":
        assert expected == []
    else:
        sent = body(name, asked_before=50)["cdr"]
        assert expected == (sent if isinstance(sent, list) else [sent])
        assert expected


def test_answered_has_both_legs_and_b_comes_first():
    sent = legs("answered")

    assert [(leg["leg"], leg["status"]) for leg in sent] == [("b", "answered"), ("a", "answered")]
    assert all(set(leg) == DOCUMENTED for leg in sent)
    assert sent[0]["duration"] < sent[1]["duration"]


def test_missed_has_one_unanswered_a_leg():
    assert [(leg["leg"], leg["status"], leg["rate"]) for leg in legs("missed")] == [("a", "missed", 0)]


def test_several_b_ends_with_an_answered_try():
    statuses = [leg["status"] for leg in legs("several_b") if leg["leg"] == "b"]

    assert len(statuses) > 1
    assert [status == "answered" for status in statuses] == [*[False] * (len(statuses) - 1), True]


def test_twins_have_the_same_value_in_every_field():
    first, second, third = legs("twins")

    assert first == second
    assert (first["leg"], third["leg"]) == ("b", "a")


def test_text_numbers_sends_text_with_a_lost_plus_and_an_agent():
    sent = [leg for number in range(40) for leg in legs(f"text_numbers-{number}")]

    assert all(isinstance(value, str) for leg in sent for value in leg.values())
    assert any(leg["rate"] == "0.450000" for leg in sent)
    assert any(leg["to"].startswith("209_11111") for leg in sent)
    assert any(leg["from"].startswith(" 91") for leg in sent)
    assert any(leg["from"].startswith("044") for leg in sent)


def test_each_variation_changes_its_values():
    assert {(leg["rate"], leg["balance"]) for leg in legs("null_money")} == {(None, None)}
    assert {leg["balance"] for leg in legs("long_money")} == {"17507.49999999892"}
    assert all(leg["time"] < 2**31 for leg in legs("seconds"))
    assert all(set(leg) > DOCUMENTED for leg in legs("extra_fields"))
    assert all("leg" not in leg for leg in legs("missing_leg_field")[-1:])
    assert body("count_mismatch")["count"] == 3
    assert body("cmi_code")["cmi_code"] == "200"
    assert isinstance(body("single_object")["cdr"], dict)
    assert b'"rate":NaN' in reply_to("malformed_nan", legs("malformed_nan")).body


@pytest.mark.parametrize("name", ["in_progress", "growing", "shrinking", "changing"])
def test_a_call_that_has_just_ended_ended_at_the_first_ask(name):
    assert set(ends(legs(name, first_asked=EPOCH + 60))) == {int((EPOCH + 60) * 1000)}


def test_late_has_no_legs_for_two_asks():
    assert [len(legs("late", asked_before)) for asked_before in range(4)] == [0, 0, 2, 2]


def test_not_ready_says_so_for_two_asks():
    assert [body("not_ready", asked_before)["code"] for asked_before in range(4)] == [202, 202, 200, 200]


def test_growing_adds_legs_and_shrinking_removes_one():
    assert legs("growing") == legs("growing", 1)[:1]
    assert len(legs("growing", 1)) > 2
    assert legs("shrinking", 1) == legs("shrinking")[1:]


def test_changing_lengthens_a_leg_on_the_second_ask():
    before, after = legs("changing"), legs("changing", 1)

    assert after[-1]["duration"] == before[-1]["duration"] + 1
    assert before[:-1] == after[:-1]
    assert after == legs("changing", 2)


def test_calls_have_both_directions_and_some_foreign_numbers():
    sent = [leg for number in range(200) for leg in legs(f"answered-{number}")]

    assert {leg["direction"] for leg in sent} == {"inbound", "outbound"}
    assert any(str(leg["to"]).startswith("1415555") for leg in sent)
    assert any(str(leg["from"]).startswith("91") and len(str(leg["from"])) == 12 for leg in sent)


def test_importing_the_scenarios_does_not_load_the_event_loop():
    code = "import sys, etl.simulator.scenarios; sys.exit('asyncio' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
