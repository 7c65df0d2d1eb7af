"""The simulator: what it has been asked, what it answers, and how it misbehaves at the moment."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from etl.simulator.alterations import SentLeg
from etl.simulator.calls import JUST_ENDED, legs_at, legs_of
from etl.simulator.delivery import Delivery, deliver
from etl.simulator.listener import Listener
from etl.simulator.questions import read_question
from etl.simulator.replies import REFUSED, Reply, html_reply, json_reply, reply_to
from etl.simulator.scenarios import HEALTHY, check_scenario, scenario_of
from etl.simulator.wire import Request

PATH = "/v1/piopiy/requestid_cdr"


def wall_clock() -> float:
    """The present instant in epoch seconds: simulated calls belong to the days before it."""
    return time.time()  # noqa: TID251 (no database is near, and no rule depends on it)


class Simulator(Listener):
    """Answers like the vendor's API, in the scenarios of its mix: `with Simulator() as simulator: …`.

    Attributes may be set from any thread while it answers, and outlast a stop and a start:

    Attributes:
        accounts: the secret of each app ID.
        latency: seconds before each answer.
        auth_error_form: how wrong credentials are told, as code 404 in the body or as HTTP 404.
        failures: how many asks a `flaky_` scenario fails before it is good.
        retry_after: the `Retry-After` of `rate_limited`, in seconds or as an HTTP date.
        redirect_to: where `redirect` points to.
        drip_pause: seconds between two bytes of the `drip_` scenarios.
        oversize_bytes: the size of the `oversize` bodies.
        unauthorized_calls: questions with wrong credentials, or malformed ones.
        headers_seen: the headers of the last question, names in lower case.
        last_body: the bytes of the last question.
    """

    def __init__(
        self,
        port: int = 0,
        seed: int = 1,
        *,
        latency: float = 0.0,
        weights: Mapping[str, float] | None = None,
        app_id: int = 2222222,
        secret: str = "simulated-secret",  # noqa: S107 (it opens nothing)
        accounts: Mapping[int, str] | None = None,
        epoch: float | None = None,
        days: int = 1,
        host: str = "127.0.0.1",
        clock: Callable[[], float] = wall_clock,
    ) -> None:
        super().__init__(port, host)
        self.seed = seed
        self.latency = latency
        self.weights: Mapping[str, float] = HEALTHY if weights is None else weights
        self.app_id = app_id
        self.accounts: dict[int, str] = {app_id: secret, **(accounts or {})}
        self.epoch = clock() if epoch is None else epoch
        self.days = days
        self.auth_error_form: Literal["body", "http"] = "body"
        self.failures = 1
        self.retry_after: float | str = 1
        self.redirect_to = "/elsewhere"
        self.drip_pause = 1.0
        self.oversize_bytes = 64_000_000
        self.unauthorized_calls = 0
        self.headers_seen: Mapping[str, str] = {}
        self.last_body = b""
        self._clock = clock
        self._outage: str | None = None
        self._calls: dict[str, int] = {}
        self._calls_in_outage: dict[str, int] = {}
        self._first_asked: dict[str, float] = {}

    @property
    def url(self) -> str:
        """The address of the one endpoint."""
        return f"http://{self.host}:{self.port}{PATH}"

    @property
    def secret(self) -> str:
        """The secret of `app_id`; setting it makes a client's right credentials wrong, and back."""
        return self.accounts[self.app_id]

    @secret.setter
    def secret(self, secret: str) -> None:
        self.accounts[self.app_id] = secret

    @property
    def outage(self) -> str | None:
        """The scenario that every question gets, whatever its ID and its credentials; None for none.

        `stall` stands for `stall_headers`. An ask during an outage is counted as a call, and is none of
        the asks after which `late`, `flaky_500` and their like give legs.
        """
        return self._outage

    @outage.setter
    def outage(self, scenario: str | None) -> None:
        scenario = "stall_headers" if scenario == "stall" else scenario
        if scenario is not None:
            check_scenario(scenario)
        self._outage = scenario

    @property
    def calls(self) -> Counter[str]:
        """How often each request ID was asked for with right credentials, as of now."""
        return Counter(dict(self._calls))

    @property
    def total_calls(self) -> int:
        """How many questions had right credentials."""
        return sum(self.calls.values())

    def legs_of(self, request_id: str) -> list[SentLeg]:
        """Say the truth about an ID: the legs with which a job must end; see `etl.simulator.legs_of`."""
        return legs_of(
            request_id,
            self.seed,
            epoch=self.epoch,
            days=self.days,
            weights=self.weights,
            first_asked=self._first_asked.get(request_id),
        )

    def stats(self) -> dict[str, int]:
        """Sum up what was asked, as `GET /stats` tells it."""
        calls = self.calls
        return {
            "total": calls.total(),
            "unauthorized": self.unauthorized_calls,
            "distinct": len(calls),
            "max_calls_of_one_id": max(calls.values(), default=0),
        }

    def deliver_to(self, request: Request) -> Delivery:
        """Answer one request over the wire."""
        return deliver(
            self._reply_to(request),
            keeps_alive=request.keeps_alive,
            drip_pause=self.drip_pause,
            oversize_bytes=self.oversize_bytes,
        )

    def _reply_to(self, request: Request) -> Reply:
        match request.method, request.target:
            case "POST", target if target == PATH:
                return self._answer(request)
            case "GET", "/stats":
                return json_reply(200, self.stats())
            case "GET", "/calls":
                return json_reply(200, self.calls)
        return html_reply(404, "404 Not Found")

    def _answer(self, request: Request) -> Reply:
        self.headers_seen = request.headers
        self.last_body = request.body
        question = read_question(request.body)
        if question is not None and self.accounts.get(question.app_id) == question.secret:
            return self._ask(question.request_id)
        self.unauthorized_calls += 1
        if self._outage is not None:
            return self._reply(self._outage, "")
        return REFUSED if self.auth_error_form == "body" else replace(REFUSED, status=404)

    def _ask(self, request_id: str) -> Reply:
        outage = self._outage
        asked_before = self._count(request_id, outage)
        scenario = outage or scenario_of(request_id, self.seed, self.weights)
        if scenario in JUST_ENDED:
            self._first_asked.setdefault(request_id, self._clock())
        return self._reply(scenario, request_id, asked_before)

    def _reply(self, scenario: str, request_id: str, asked_before: int = 0) -> Reply:
        legs = legs_at(
            scenario,
            request_id,
            self.seed,
            epoch=self.epoch,
            days=self.days,
            asked_before=asked_before,
            first_asked=self._first_asked.get(request_id),
        )
        return reply_to(
            scenario,
            legs,
            asked_before=asked_before,
            failures=self.failures,
            retry_after=self.retry_after,
            redirect_to=self.redirect_to,
        )

    def _count(self, request_id: str, outage: str | None) -> int:
        """Count this ask, and say how many there were before it outside outages."""
        before = self._calls.get(request_id, 0)
        self._calls[request_id] = before + 1
        in_outages = self._calls_in_outage.get(request_id, 0)
        if outage:
            self._calls_in_outage[request_id] = in_outages + 1
        return before - in_outages
