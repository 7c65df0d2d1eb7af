"""Every error raised on purpose, drawn as a tree, and the exit codes of the program.

::

    CdrSyncError                 a failure to report: reason, remedy, exit code
    ├── UsageError               what was typed cannot be done                            exit 2
    ├── SettingsError            the configuration is wrong                               exit 78
    ├── SchemaError              the database schema is not the one this version needs    exit 78
    ├── DatabaseUnavailableError the database cannot be reached, or is broken             exit 69
    ├── ApiUnavailableError      the API cannot be reached, or does not work              exit 69
    ├── CredentialsRefusedError  the API rejects the credentials                          exit 77
    ├── AlreadyRunningError      another run holds the lock of --single-instance          exit 75
    └── FailedCheckError         a check failed                                           exit 1

    RequestError                 why one request got no valid answer; `reason` is stored
    ├── TransientError           may pass within seconds: worth another try in this claim
    │   ├── CallTimeoutError         timeout        no whole answer within the deadline
    │   ├── CallConnectionError      connection     no connection, or it broke
    │   ├── ServerError              server_error   5xx, as HTTP status or as `code` in the body
    │   ├── RateLimitedError         rate_limited   429; `retry_after` in seconds if the API sent it
    │   └── UnreadableError          malformed      not an answer: no JSON, no `code`, no `cdr`
    ├── RefusedError             the request ID or the credentials: only the canary can tell which
    │   ├── NotFoundError            not_found      404, as HTTP status or in the body
    │   └── UnauthorizedError        unauthorized   401, 403 or 407, as HTTP status or in the body
    ├── NotReadyError            not_ready      the API says: not yet (202, 204, 425)
    ├── RejectedError            rejected       any other code; another try at once does not help
    ├── RedirectedError          redirected     3xx: never followed, because the secret would go along
    ├── TooLargeError            too_large      more bytes than an answer can have
    ├── MalformedError           malformed      an answer that says 200 and breaks the format: final
    └── UnstorableError          unstorable     the database rejects the values
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import ClassVar

SHORT_PAUSE_SECONDS = 5.0  # a pause up to this length is waited out in the run; a longer one on the queue


class ExitCode(IntEnum):
    """The exit codes of the program, after sysexits.h. A signal exits with 128 plus its number."""

    OK = 0
    FAILED = 1  # an unexpected error, or a check that failed
    USAGE = 2
    DEAD_REQUESTS = 65  # some requests became dead in this run
    UNAVAILABLE = 69  # the API is down, or the database cannot be reached
    ALREADY_RUNNING = 75
    CREDENTIALS_REFUSED = 77
    CONFIGURATION = 78  # settings are wrong, or the schema is not current


# Where several apply, the first of these wins; any other code, such as a signal's, comes between 1 and 65.
_PRECEDENCE = (ExitCode.CONFIGURATION, ExitCode.CREDENTIALS_REFUSED, ExitCode.UNAVAILABLE, ExitCode.FAILED)


def gravest(codes: Iterable[int]) -> int:
    """The exit code to report where several apply; 0 where there is none."""
    found = set(codes)
    return next((code for code in _PRECEDENCE if code in found), max(found, default=ExitCode.OK))


def did_you_mean(name: str, known: Iterable[str], *, most: int = 1, shown: Callable[[str], str] = str) -> str:
    """The question whether a known name was meant; empty if no name is similar.

    Args:
        name: what was typed.
        known: the names that exist.
        most: how many names to suggest at most.
        shown: how to print a name, such as `repr`.
    """
    from difflib import get_close_matches  # noqa: PLC0415 (needed only for a mistake)

    # Sorted, because the closest name must not depend on the order of a set.
    alike = get_close_matches(name, sorted(known), n=most)
    return f"Did you mean {' or '.join(map(shown, alike))}?" if alike else ""


class CdrSyncError(Exception):
    """A failure to report to the user: what is wrong and where, what to do about it, and the exit code.

    `str()` gives both sentences, for printing. Code reads `reason`, `remedy` and `exit_code`.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(self, reason: str, *, remedy: str = "") -> None:
        super().__init__(reason, remedy)
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.reason}. {self.remedy}" if self.remedy else self.reason


class UsageError(CdrSyncError):
    """What was typed cannot be done."""

    exit_code = ExitCode.USAGE


class SettingsError(CdrSyncError):
    """The configuration is wrong. The message names everything that is wrong at once."""

    exit_code = ExitCode.CONFIGURATION


class SchemaError(CdrSyncError):
    """The database schema is not the one that this version needs."""

    exit_code = ExitCode.CONFIGURATION


class DatabaseUnavailableError(CdrSyncError):
    """The database cannot be reached, or does not work."""

    exit_code = ExitCode.UNAVAILABLE


class ApiUnavailableError(CdrSyncError):
    """The API cannot be reached, or does not work."""

    exit_code = ExitCode.UNAVAILABLE


class CredentialsRefusedError(CdrSyncError):
    """The API rejects the credentials."""

    exit_code = ExitCode.CREDENTIALS_REFUSED


class AlreadyRunningError(CdrSyncError):
    """Another run holds the lock of `--single-instance`."""

    exit_code = ExitCode.ALREADY_RUNNING


class FailedCheckError(CdrSyncError):
    """A check failed."""


class RequestError(Exception):
    """Why one request got no valid answer.

    `reason` is the stable word stored as `last_error_kind`; the message is for people and never contains the
    secret. `http_status` is the status of the answer, if there was one. `is_web_page` says that the body is
    HTML, so another server than the API may have answered.
    """

    reason: ClassVar[str] = "rejected"

    def __init__(self, message: str, *, http_status: int | None = None, is_web_page: bool = False) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.is_web_page = is_web_page


class TransientError(RequestError):
    """May pass within seconds: another try in the same claim is worth it."""


class CallTimeoutError(TransientError):
    """No whole answer within the deadline of the call."""

    reason = "timeout"


class CallConnectionError(TransientError):
    """There was no connection, or it broke before the answer was whole."""

    reason = "connection"


class ServerError(TransientError):
    """The API failed: 5xx, as HTTP status or as `code` in the body."""

    reason = "server_error"


class RateLimitedError(TransientError):
    """The API asks for a pause (429)."""

    reason = "rate_limited"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        http_status: int | None = None,
        is_web_page: bool = False,
    ) -> None:
        super().__init__(message, http_status=http_status, is_web_page=is_web_page)
        self.retry_after = retry_after  # seconds, never negative; None if the API sent nothing usable

    @property
    def is_long(self) -> bool:
        """Whether the pause is too long for a run: then the queue waits, and no attempt is used."""
        return self.retry_after is not None and self.retry_after > SHORT_PAUSE_SECONDS


class UnreadableError(TransientError):
    """Not an answer at all: no JSON object, no `code`, or success without `cdr`."""

    reason = "malformed"


class RefusedError(RequestError):
    """The API rejected the request ID or the credentials; only the canary can tell which."""


class NotFoundError(RefusedError):
    """404: documented for wrong credentials and missing parameters, and perhaps for unknown IDs."""

    reason = "not_found"


class UnauthorizedError(RefusedError):
    """401, 403 or 407, as HTTP status or as `code` in the body."""

    reason = "unauthorized"


class NotReadyError(RequestError):
    """The API says that there is no answer yet (202, 204, 425)."""

    reason = "not_ready"


class RejectedError(RequestError):
    """Any other code: another try within seconds does not help."""

    reason = "rejected"


class RedirectedError(RequestError):
    """3xx, which is never followed because the secret travels in the body."""

    reason = "redirected"


class TooLargeError(RequestError):
    """The body has more bytes than an answer can have."""

    reason = "too_large"


class MalformedError(RequestError):
    """The answer claims success and yet breaks the format; the message names the field."""

    reason = "malformed"


class UnstorableError(RequestError):
    """The database rejects the values of this answer, and only of this one."""

    reason = "unstorable"
