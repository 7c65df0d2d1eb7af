"""What a check found: a word, a sentence, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from etl.errors import CdrSyncError

_GRAVEST_FIRST = (78, 77, 69, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check and what came of it; a check that looks at accounts one by one names the account."""

    check: str
    account: str | None = None
    result: Literal["ok", "warning", "failed", "skipped"]
    found: str
    remedy: str | None = None
    exit_code: int = 0


def failed(check: str, error: CdrSyncError, *, remedy: str, account: str | None = None) -> Finding:
    """A check that ended by an error, whose exit code it takes over."""
    return Finding(
        check=check,
        account=account,
        result="failed",
        found=str(error),
        remedy=remedy,
        exit_code=error.exit_code,
    )


def skipped(check: str, because_of: str) -> Finding:
    """A check that cannot be made, since another one failed."""
    return Finding(
        check=check, result="skipped", found=f"not looked at, since the check of {because_of} failed"
    )


def exit_code_of(findings: Iterable[Finding]) -> int:
    """The exit code of all checks together: that of the gravest failure."""
    codes = {finding.exit_code for finding in findings}
    return next((code for code in _GRAVEST_FIRST if code in codes), 0)
