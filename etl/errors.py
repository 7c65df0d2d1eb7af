"""Every error that is raised on purpose, drawn as a tree.

::

    CdrSyncError                 something a person is told in one line, with an exit code
    ├── UsageError               what was typed cannot be done as it stands                  exit 2
    ├── SettingsError            the configuration is wrong                                  exit 78
    ├── SchemaError              the database's schema is not the one this version needs     exit 78
    ├── DatabaseUnavailableError the database cannot be reached, or is broken                exit 69
    └── FailedCheckError         a check that says no                                        exit 1

    RequestError                 why one request got no valid answer; `reason` is stored
    ├── TransientError           may pass within seconds: worth another try in this claim
    │   ├── CallTimeoutError         timeout        no whole answer within the deadline
    │   ├── CallConnectionError      connection     no connection, or it broke
    │   ├── ServerError              server_error   5xx, as HTTP status or as `code` in the body
    │   ├── RateLimitedError         rate_limited   429; `retry_after` in seconds where it was said
    │   └── UnreadableError          malformed      not an answer at all: no JSON, no `code`, no `cdr`
    ├── RefusedError             this request or the credentials: only the canary can tell
    │   ├── NotFoundError            not_found      404, as HTTP status or in the body
    │   └── UnauthorizedError        unauthorized   401, 403 or 407, likewise
    ├── NotReadyError            not_ready      the API says: not yet (202, 204, 425)
    ├── RejectedError            rejected       any other code; asking again at once is no use
    ├── RedirectedError          redirected     3xx: never followed, it would take the secret along
    ├── TooLargeError            too_large      more bytes than an answer can have
    ├── MalformedError           malformed      an answer that says 200 and breaks the format: final
    └── UnstorableError          unstorable     the database refuses the values
"""

from __future__ import annotations

from typing import ClassVar

SHORT_PAUSE_SECONDS = 5.0  # what a thread waits for itself where the API asks for a pause


class CdrSyncError(Exception):
    """A failure that a person is told in one line: what is wrong, where, and what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(CdrSyncError):
    """What was typed cannot be done as it stands."""

    exit_code = 2


class SettingsError(CdrSyncError):
    """The configuration is wrong. The message names everything that is wrong at once."""

    exit_code = 78


class SchemaError(CdrSyncError):
    """The database's schema is not the one that this version needs."""

    exit_code = 78


class DatabaseUnavailableError(CdrSyncError):
    """The database cannot be reached, or refuses to work."""

    exit_code = 69


class FailedCheckError(CdrSyncError):
    """A check that was asked for says no."""


class RequestError(Exception):
    """Why one request got no valid answer.

    `reason` is the stable word stored as `last_error_kind`; the message is for people, and never
    holds the secret. `http_status` is what was received, where anything was.
    """

    reason: ClassVar[str] = "rejected"

    def __init__(self, message: str, *, http_status: int | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status


class TransientError(RequestError):
    """May pass within seconds, so that another try in the same claim is worth it."""


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
    """The API asks for patience (429)."""

    reason = "rate_limited"

    def __init__(
        self, message: str, *, retry_after: float | None = None, http_status: int | None = None
    ) -> None:
        super().__init__(message, http_status=http_status)
        self.retry_after = retry_after  # seconds, never negative; None where nothing usable was said

    @property
    def is_long(self) -> bool:
        """Whether the API asks for more patience than a run has: then the queue waits, at no attempt."""
        return self.retry_after is not None and self.retry_after > SHORT_PAUSE_SECONDS


class UnreadableError(TransientError):
    """Not an answer at all: no JSON object, no `code`, or success without `cdr`."""

    reason = "malformed"


class RefusedError(RequestError):
    """The API knows either this request or these credentials not; only the canary can tell which."""


class NotFoundError(RefusedError):
    """404, which the vendor documents for unknown IDs, wrong credentials and missing parameters alike."""

    reason = "not_found"


class UnauthorizedError(RefusedError):
    """401, 403 or 407, as HTTP status or as `code` in the body."""

    reason = "unauthorized"


class NotReadyError(RequestError):
    """The API says that there is no answer yet (202, 204, 425)."""

    reason = "not_ready"


class RejectedError(RequestError):
    """Any other code: asking again within seconds is no use."""

    reason = "rejected"


class RedirectedError(RequestError):
    """3xx, which is never followed: the secret travels in the body."""

    reason = "redirected"


class TooLargeError(RequestError):
    """The body has more bytes than an answer can have."""

    reason = "too_large"


class MalformedError(RequestError):
    """The answer claims success and yet breaks the format; the message names the field."""

    reason = "malformed"


class UnstorableError(RequestError):
    """The database refuses the values of this answer, and only of this one."""

    reason = "unstorable"
