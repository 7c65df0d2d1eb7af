"""Every error of requests, urllib3, http.client, ssl and socket becomes an error of ours."""

from __future__ import annotations

import http.client
import inspect
import socket
import ssl

import pytest
import requests.exceptions
import urllib3.exceptions

from etl.errors import CallConnectionError, CallTimeoutError
from etl.piopiy.client import _FOREIGN, CdrApi

ARGUMENTS = {
    "JSONDecodeError": ("not JSON", "{", 0),
    "PoolError": (None, "text"),
    "EmptyPoolError": (None, "text"),
    "FullPoolError": (None, "text"),
    "ClosedPoolError": (None, "text"),
    "RequestError": (None, "/", "text"),
    "ReadTimeoutError": (None, "/", "text"),
    "MaxRetryError": (None, "/", None),
    "HostChangedError": (None, "/"),
    "NewConnectionError": (None, "text"),
    "NameResolutionError": ("host", None, socket.gaierror(-2, "Name or service not known")),
    "IncompleteRead": (1, 2),
    "HeaderParsingError": ([], b""),
    "BadStatusLine": ("line",),
    "LineTooLong": ("line",),
}
TIMEOUTS = {
    "Timeout",
    "ConnectTimeout",
    "ReadTimeout",
    "TimeoutError",
    "ReadTimeoutError",
    "ConnectTimeoutError",
}


def errors_of(module):
    found = {
        each
        for name, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, Exception) and not issubclass(each, Warning) and not name.startswith("_")
    }
    return sorted(
        (each for each in found if each.__module__ == module.__name__), key=lambda each: each.__name__
    )


def made(kind):
    if kind is urllib3.exceptions.ProxyError:
        return kind("text", OSError("text"))
    if kind is urllib3.exceptions.InvalidChunkLength:
        error = kind.__new__(kind)
        error.partial, error.expected, error.length = 1, 2, b"x"
        return error
    return kind(*ARGUMENTS.get(kind.__name__, ("text",)))


@pytest.fixture
def translated():
    api = CdrApi("http://api.example/", timeout=30.0)
    yield lambda error: api._translated([error])
    api.close()


@pytest.mark.parametrize(
    "kind",
    [
        *errors_of(requests.exceptions),
        *errors_of(urllib3.exceptions),
        *errors_of(http.client),
        *errors_of(ssl),
        *errors_of(socket),
        ConnectionRefusedError,
        ConnectionResetError,
        BrokenPipeError,
        TimeoutError,
    ],
    ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}",
)
def test_each_library_error_becomes_an_error_of_ours(kind, translated):
    error = made(kind)
    expected = CallTimeoutError if kind.__name__ in TIMEOUTS else CallConnectionError

    assert isinstance(error, _FOREIGN)
    assert type(translated(error)) is expected
