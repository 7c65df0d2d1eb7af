"""Rejected credentials: reported once, after few calls; once they are right, one run does everything."""

from __future__ import annotations

import pytest
from support.systems import numbered

from etl.db.tables import sync_runs

FEW = 12  # calls: those on their way at the start, and the canary


@pytest.mark.heavy
@pytest.mark.fault(26)
def test_wrong_credentials_with_a_thousand_due_cost_few_calls_and_no_attempt(site):
    site.fill(1_000)
    site.simulator.auth_error_form = "http"
    no_secret = site.run("sync", PIOPIY_SECRET="another")
    site.simulator.auth_error_form = "body"
    no_id = site.run("sync", PIOPIY_APP_ID="1")
    untouched, calls = site.is_untouched(), [run["api_calls"] for run in site.rows(sync_runs)]
    unauthorized = site.simulator.unauthorized_calls
    mended = site.run("sync")

    assert (no_secret.code, no_secret.stdout, no_secret.events) == (77, "", [report_of("HTTP status 404")])
    assert (no_id.code, no_id.stdout, no_id.events) == (77, "", [report_of("code 404 in the body")])
    assert untouched
    assert 0 < sum(calls) == unauthorized <= 2 * FEW
    assert (mended.code, mended.all) == (0, "")
    assert site.states() == {"done": 1_000}
    assert site.simulator.total_calls == 1_000
    assert site.outcomes() == ["credentials_refused", "credentials_refused", "ok"]
    site.report(f"exit 77 twice after {unauthorized} calls, no attempt used, then all in one run")


def report_of(how):
    return (
        f"PIOPIY rejects the credentials of account 'default' ({how}: 'Invalid app id or secret'). Check its "
        "app ID and secret: `cdr-sync doctor` tries them. All requests were given back; no attempt was used."
    )


@pytest.mark.fault(26)
@pytest.mark.parametrize("has_canary", [True, False], ids=["canary", "nothing known"])
def test_wrong_credentials_over_many_runs_use_no_attempt(site, has_canary):
    if has_canary:
        site.enqueue("answered-first")
        site.sync()
    site.enqueue(*numbered("answered", 20))
    site.simulator.secret = "another"
    refused = [site.sync() for _ in range(20)]
    untouched = site.is_untouched()
    site.simulator.secret = "simulated-secret"
    mended = site.sync()

    assert {summary.exit_code for summary in refused} == {77}
    assert {summary.outcome for summary in refused} == {"credentials_refused"}
    assert all(0 < summary.counts["api_calls"] <= FEW for summary in refused)
    assert untouched
    assert (mended.exit_code, mended.counts["done"]) == (0, 20)
    site.report("twenty runs: exit 77 each, no attempt used, then all in one run")
