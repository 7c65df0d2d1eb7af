import contextlib
import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from etl.simulator.scenarios import SAMPLE_REQUEST_ID, make_request_id
from etl.simulator.server import PATH, Simulator

PATIENCE = 60.0  # seconds for what comes
IMPATIENCE = 0.5  # seconds for what never comes
CREDENTIALS = {"appid": 2222222, "secret": "simulated-secret"}


@pytest.fixture
def simulator():
    with Simulator(epoch=1_700_000_000.0) as running:
        running.drip_pause = 0.0
        yield running


@contextlib.contextmanager
def connected(simulator, timeout=PATIENCE):
    connection = http.client.HTTPConnection(simulator.host, simulator.port, timeout=timeout)
    try:
        yield connection
    finally:
        connection.close()


def question(request_id="answered", **changes):
    return json.dumps({**CREDENTIALS, "request_id": request_id, **changes}).encode()


def ask_over(connection, request_id, body=None, headers=None):
    connection.request("POST", PATH, question(request_id) if body is None else body, headers or {})
    with connection.getresponse() as response:
        return response.status, response.headers, response.read()


def ask(simulator, request_id="answered", body=None, timeout=PATIENCE):
    with connected(simulator, timeout) as connection:
        return ask_over(connection, request_id, body)


def patience_for(error):
    return IMPATIENCE if error is TimeoutError else PATIENCE


def answer(simulator, request_id):
    status, _, body = ask(simulator, request_id)
    assert status == 200
    return json.loads(body)


def raw(simulator, sent, timeout=PATIENCE):
    """Return everything that comes back until the server closes the connection."""
    received = b""
    with socket.create_connection((simulator.host, simulator.port), timeout) as connection:
        connection.sendall(sent)
        while piece := connection.recv(65_536):
            received += piece
    return received


def raw_question(request_id, connection="close"):
    body = question(request_id)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: {connection}\r\n\r\n"
    )
    return head.encode() + body


@pytest.mark.parametrize(
    "request_id",
    [
        SAMPLE_REQUEST_ID,
        make_request_id(1),
        "twins-1",
        "chunked-1",
        "count_mismatch",
    ],
)
def test_a_question_gets_the_legs_of_its_id(simulator, request_id):
    content = answer(simulator, request_id)

    assert content["code"] == 200
    assert content["cdr"] == simulator.legs_of(request_id) != []


def test_a_connection_stays_open_for_the_next_question(simulator):
    with connected(simulator) as connection:
        for number in range(20):
            assert ask_over(connection, f"answered-{number}")[0] == 200

    assert simulator.connections_opened == 1
    assert simulator.total_calls == 20


def test_the_connection_is_closed_when_the_client_asks_for_it(simulator):
    with connected(simulator) as connection:
        _, headers, _ = ask_over(connection, "answered", headers={"Connection": "close"})

    assert headers["connection"] == "close"
    assert raw(simulator, raw_question("answered")).endswith(b'"code":200}')


def test_a_request_may_arrive_in_any_pieces(simulator):
    with socket.create_connection((simulator.host, simulator.port), 5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in raw_question("none"):
            connection.send(bytes([byte]))
        received = b""
        while piece := connection.recv(65_536):
            received += piece

    assert received.endswith(b'{"count":0,"cdr":[],"code":200}')


def test_pipelined_requests_are_answered_in_order(simulator):
    simulator.latency = 0.01
    sent = raw_question("none", "keep-alive") + raw_question("body_500", "keep-alive") + raw_question("none")

    received = raw(simulator, sent)

    assert [part.partition(b"\r\n\r\n")[2] for part in received.split(b"HTTP/1.1 200 OK")[1:]] == [
        b'{"count":0,"cdr":[],"code":200}',
        b'{"code":500,"msg":"Something went wrong"}',
        b'{"count":0,"cdr":[],"code":200}',
    ]


def test_latency_delays_an_answer_but_not_the_others():
    with Simulator(latency=1) as simulator, ThreadPoolExecutor(60) as pool:
        started = time.monotonic()
        statuses = [status for status, _, _ in pool.map(lambda _: ask(simulator), range(60))]
        took = time.monotonic() - started

    assert statuses == [200] * 60
    assert 1 <= took < 60  # seconds: what they take one after another


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": "wrong"},
        {"secret": None},
        {"appid": "2222222"},
        {"appid": 2222222.0},
        {"appid": True},
        {"appid": 1},
        {"request_id": ""},
        {"request_id": 5},
    ],
)
def test_wrong_credentials_and_parameters_are_rejected_in_the_body(simulator, changes):
    status, _, body = ask(simulator, body=question(**changes))

    assert (status, json.loads(body)) == (200, {"code": 404, "msg": "Invalid app id or secret"})
    assert (simulator.unauthorized_calls, simulator.total_calls) == (1, 0)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"{}", b"[" * 100_000])
def test_a_body_that_is_not_a_valid_question_is_rejected(simulator, body):
    assert json.loads(ask(simulator, body=body)[2])["code"] == 404
    assert simulator.unauthorized_calls == 1


def test_wrong_credentials_can_be_reported_by_the_http_status(simulator):
    simulator.auth_error_form = "http"

    status, _, body = ask(simulator, body=question("answered", secret="wrong"))

    assert (status, json.loads(body)["code"]) == (404, 404)


def test_a_secret_can_change_while_it_runs(simulator):
    simulator.secret = "another"
    assert answer(simulator, "answered")["code"] == 404

    simulator.secret = "simulated-secret"
    assert answer(simulator, "answered")["code"] == 200


def test_there_can_be_several_accounts(simulator):
    simulator.accounts[7] = "seven"
    seventh = ask(simulator, body=question("answered", appid=7, secret="seven"))
    mixed_up = ask(simulator, body=question("answered", appid=7))

    assert json.loads(seventh[2])["code"] == 200
    assert json.loads(mixed_up[2])["code"] == 404
    assert answer(simulator, "answered")["code"] == 200


def test_an_unknown_path_gets_a_page_with_404(simulator):
    with connected(simulator) as connection:
        connection.request("POST", "/v1/piopiy/request_cdr", question("answered"))
        with connection.getresponse() as response:
            assert response.status == 404
            assert response.headers.get_content_type() == "text/html"


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_an_invalid_http_request_gets_400_and_the_connection_is_closed(simulator, sent):
    assert raw(simulator, sent).startswith(b"HTTP/1.1 400 ")


def test_it_counts_what_it_was_asked_and_keeps_the_last_question(simulator):
    for request_id in ("none", "late", "none"):
        ask(simulator, request_id)
    ask(simulator, body=b"{}")
    with connected(simulator) as connection:
        connection.request("POST", PATH, question("none"), {"User-Agent": "a-client/1"})
        connection.getresponse().read()
        connection.request("GET", "/stats")
        stats = json.loads(connection.getresponse().read())
        connection.request("GET", "/calls")
        calls = json.loads(connection.getresponse().read())

    assert stats == {"total": 4, "unauthorized": 1, "distinct": 2, "max_calls_of_one_id": 3}
    assert calls == {"none": 3, "late": 1} == simulator.calls
    assert simulator.last_body == question("none")
    assert simulator.headers_seen["user-agent"] == "a-client/1"


@pytest.mark.parametrize(
    ("scenario", "status", "code"),
    [
        ("not_found_body", 200, 404),
        ("not_found", 404, 404),
        ("unauthorized_body", 200, 407),
        ("rejected", 200, 400),
        ("error_500", 500, 500),
        ("body_500", 200, 500),
        ("msg_object", 200, 500),
        ("rate_limited", 429, 429),
    ],
)
def test_errors_with_a_code_never_end(simulator, scenario, status, code):
    for _ in range(3):
        got, _, body = ask(simulator, scenario)
        assert (got, json.loads(body)["code"]) == (status, code)


@pytest.mark.parametrize(
    ("scenario", "status"), [("error_503", 503), ("not_found_html", 404), ("redirect", 307)]
)
def test_some_errors_are_html_pages(simulator, scenario, status):
    got, headers, body = ask(simulator, scenario)

    assert (got, headers.get_content_type()) == (status, "text/html")
    assert body.startswith(b"<html>")


def test_the_headers_of_rate_limited_and_redirect_can_be_set(simulator):
    simulator.retry_after = 17
    simulator.redirect_to = "https://elsewhere.example/"

    assert ask(simulator, "rate_limited")[1]["retry-after"] == "17"
    assert ask(simulator, "redirect")[1]["location"] == "https://elsewhere.example/"


@pytest.mark.parametrize(
    ("scenario", "status"),
    [("flaky_500", 500), ("flaky_503_html", 503), ("flaky_429", 429)],
)
def test_a_flaky_answer_succeeds_the_second_time(simulator, scenario, status):
    simulator.retry_after = 99
    got, headers, _ = ask(simulator, scenario)

    assert got == status
    assert headers["retry-after"] == ("1" if status == 429 else None)
    assert answer(simulator, scenario)["cdr"] == simulator.legs_of(scenario)


def test_the_number_of_failures_of_a_flaky_answer_can_be_set(simulator):
    simulator.failures = 3

    assert [ask(simulator, "flaky_500")[0] for _ in range(5)] == [500, 500, 500, 200, 200]


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        ("flaky_reset", ConnectionResetError),
        ("flaky_truncated", http.client.IncompleteRead),
        ("flaky_timeout", TimeoutError),
    ],
)
def test_a_flaky_connection_succeeds_the_second_time(simulator, scenario, error):
    with pytest.raises(error):
        ask(simulator, scenario, timeout=patience_for(error))

    assert answer(simulator, scenario)["cdr"] == simulator.legs_of(scenario)


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        ("reset", ConnectionResetError),
        ("empty_reply", http.client.RemoteDisconnected),
        ("stall_headers", TimeoutError),
        ("stall_body", TimeoutError),
        ("truncated", http.client.IncompleteRead),
    ],
)
def test_broken_connections_stay_broken(simulator, scenario, error):
    for _ in range(2):
        with pytest.raises(error):
            ask(simulator, scenario, timeout=patience_for(error))

    assert simulator.calls[scenario] == 2


def test_a_cut_body_is_invalid_json_without_a_content_length(simulator):
    status, headers, body = ask(simulator, "cut")

    assert status == 200
    assert "content-length" not in headers
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


@pytest.mark.parametrize("scenario", ["drip_headers", "drip_body"])
def test_a_dripping_answer_arrives_byte_by_byte(simulator, scenario):
    simulator.drip_pause = 0.05

    with socket.create_connection((simulator.host, simulator.port), 5) as connection:
        connection.sendall(raw_question(scenario))
        pieces = [connection.recv(65_536) for _ in range(4)]

    assert [len(piece) for piece in pieces[1:]] == [1, 1, 1]


@pytest.mark.parametrize("scenario", ["drip_headers", "drip_body"])
def test_a_patient_client_gets_the_whole_dripping_answer(simulator, scenario):
    assert answer(simulator, scenario)["count"] == 2


@pytest.mark.parametrize(
    ("scenario", "content"),
    [("missing_cdr", {"count": 2, "code": 200}), ("null_cdr", {"count": 2, "cdr": None, "code": 200})],
)
def test_success_can_lack_its_legs(simulator, scenario, content):
    assert answer(simulator, scenario) == content


def test_some_bodies_are_not_a_json_object(simulator):
    assert isinstance(answer(simulator, "not_an_object"), list)
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(ask(simulator, "garbage")[2])


@pytest.mark.parametrize(("scenario", "is_declared"), [("oversize", False), ("oversize_declared", True)])
def test_a_large_body_has_the_size_that_is_set(simulator, scenario, is_declared):
    simulator.oversize_bytes = 3_000_001

    _, headers, body = ask(simulator, scenario)

    assert len(body) == 3_000_001
    assert ("content-length" in headers) is is_declared


def test_a_client_may_leave_during_a_large_body(simulator):
    with socket.create_connection((simulator.host, simulator.port), 5) as connection:
        connection.sendall(raw_question("oversize"))
        connection.recv(100)

    assert answer(simulator, "answered")["code"] == 200


def test_a_gzip_bomb_is_small_and_unpacks_to_much_more(simulator):
    _, headers, body = ask(simulator, "gzip_bomb")

    assert headers["content-encoding"] == "gzip"
    assert len(body) < 1_000_000
    first = zlib.decompressobj(zlib.MAX_WBITS | 16)
    assert len(first.decompress(body)) == 2**20
    assert gzip.decompress(body[: len(body) - len(first.unused_data)]) == b" " * 2**20
    assert len(body) % (len(body) - len(first.unused_data)) == 0


@pytest.mark.parametrize(
    ("outage", "expected"),
    [
        ("error_503", 503),
        ("not_found", 404),
        ("reset", ConnectionResetError),
        ("stall_headers", TimeoutError),
    ],
)
def test_an_outage_affects_every_question_until_it_ends(simulator, outage, expected):
    simulator.outage = outage
    for body in (question("answered"), question("answered", secret="wrong")):
        if isinstance(expected, int):
            assert ask(simulator, body=body)[0] == expected
        else:
            with pytest.raises(expected):
                ask(simulator, body=body, timeout=patience_for(expected))

    simulator.outage = None
    assert answer(simulator, "answered")["code"] == 200
    assert simulator.calls["answered"] == 2


def test_asks_during_an_outage_do_not_advance_a_scenario(simulator):
    simulator.outage = "error_503"
    for _ in range(5):
        ask(simulator, "late")
    simulator.outage = None

    assert [answer(simulator, "late")["count"] for _ in range(3)] == [0, 0, 2]


def test_an_outage_must_be_a_scenario(simulator):
    with pytest.raises(ValueError, match=r"`weather` is not a scenario\. Use one of"):
        simulator.outage = "weather"


def test_it_refuses_connections_while_stopped_and_keeps_its_port_and_counts(simulator):
    ask(simulator, "late")
    port = simulator.port
    with connected(simulator) as idle:
        ask_over(idle, "late")
        simulator.stop()
        with pytest.raises(ConnectionRefusedError):
            ask(simulator)
        with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected, BrokenPipeError)):
            ask_over(idle, "late")

    simulator.start()
    assert simulator.port == port
    assert answer(simulator, "late")["count"] == 2


@pytest.mark.parametrize(("scenario", "latency"), [("stall_body", 0), ("drip_body", 0), ("answered", 60)])
def test_stopping_drops_a_waiting_client_without_an_error(simulator, caplog, scenario, latency):
    simulator.latency, simulator.drip_pause = latency, 60
    with socket.create_connection((simulator.host, simulator.port), 5) as connection:
        connection.sendall(raw_question(scenario))
        if not latency:
            connection.recv(1)
        while not simulator.connections_opened:
            pass
        simulator.stop()
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(65_536):
                pass

    simulator.stop()
    assert caplog.records == []


def test_it_cannot_be_started_twice(simulator):
    with pytest.raises(RuntimeError, match="already running"):
        simulator.start()


def test_a_port_in_use_is_an_error_at_once(simulator):
    with pytest.raises(OSError, match="in use"):
        Simulator(port=simulator.port).start()


def test_concurrent_connections_get_the_right_legs_each(simulator):
    def ask_some(worker):
        with connected(simulator) as connection:
            return [
                json.loads(ask_over(connection, make_request_id(worker * 100 + number))[2])["cdr"]
                == simulator.legs_of(make_request_id(worker * 100 + number))
                for number in range(20)
            ]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask_some, range(8)))

    assert results == [[True] * 20] * 8
    assert (simulator.connections_opened, simulator.total_calls) == (8, 160)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_it_runs_until_a_signal(number):
    code = (
        "from etl.simulator.server import Simulator; simulator = Simulator();"
        "simulator.serve_forever(lambda: print(simulator.port, flush=True)); print('stopped')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), 5):
            os.kill(process.pid, number)
            rest, _ = process.communicate(timeout=PATIENCE)

    assert (rest, process.returncode) == ("stopped\n", 0)
