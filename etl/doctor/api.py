"""The API: whether it can be reached, and whether it knows an account's credentials."""

from __future__ import annotations

from urllib.parse import urlsplit

from etl.cdr.answers import read_answer
from etl.cdr.breaker import Verdict, judge_canary
from etl.cdr.parsing import parse_legs
from etl.doctor.findings import Finding, failed
from etl.errors import NotFoundError, RateLimitedError, RejectedError, RequestError, SettingsError
from etl.piopiy.client import CdrApi, Credentials
from etl.redaction import hide_secret_in_bytes
from etl.settings import Account, Settings

UNKNOWN_REQUEST_ID = "cdr-sync-doctor"  # PIOPIY's IDs have no dash


def check_api(settings: Settings, account: Account, canary: str | None) -> Finding:
    """Ask once, and judge what comes of it as the job does.

    Args:
        settings: where to ask, and how long to wait for the whole answer.
        account: who asks.
        canary: a request of this account that is known to be good; None where there is none. Then it is asked
            about one that cannot exist, and a refusal can be meant for either.
    """
    try:
        error = _ask(settings, account, canary or UNKNOWN_REQUEST_ID)
    except SettingsError as wrong:
        return failed("api", wrong, account=account.name, remedy="set api_url or proxy right")
    judgement = _judge(error, has_canary=canary is not None)
    return _told(judgement, error, account.name, urlsplit(settings.api_url).hostname or "")


def _ask(settings: Settings, account: Account, request_id: str) -> RequestError | None:
    api = CdrApi(
        settings.api_url, timeout=settings.request_timeout.total_seconds(), proxy=settings.proxy or None
    )
    try:
        reply = api.fetch_answer(request_id, Credentials(account.app_id, account.secret))
        body = hide_secret_in_bytes(reply.body, account.secret)
        parse_legs(
            read_answer(reply.status, body, retry_after=reply.retry_after), region=settings.default_region
        )
    except RequestError as error:
        return error
    finally:
        api.close()
    return None


def _judge(error: RequestError | None, *, has_canary: bool) -> Verdict:
    match error:
        case RateLimitedError():
            return Verdict.HOLD
        case NotFoundError() | RejectedError() if not has_canary:
            return Verdict.HOLD
    return judge_canary(error)


def _told(judgement: Verdict, error: RequestError | None, account: str, host: str) -> Finding:
    match judgement:
        case Verdict.COUNT:
            found = f"{host} answers and takes the credentials"
            return Finding(check="api", account=account, result="ok", found=found)
        case Verdict.HOLD:
            return Finding(
                check="api",
                account=account,
                result="warning",
                found=f"{host} answers; whether it takes the credentials was not told ({error})",
                remedy="ask for a request that PIOPIY is known to have: `cdr-sync fetch ID"
                f" --account {account}`",
            )
        case Verdict.REFUSED:
            return Finding(
                check="api",
                account=account,
                result="failed",
                found=f"{host} refuses the credentials ({error})",
                remedy="compare the account's app_id and secret with those that PIOPIY shows",
                exit_code=77,
            )
    return Finding(
        check="api",
        account=account,
        result="failed",
        found=f"{host} gives no valid answer ({error})",
        remedy="see that api_url and proxy (CDR_SYNC_API_URL, CDR_SYNC_PROXY) are right and can be reached"
        " from here; if so, it is PIOPIY's to mend, and the next run tries again",
        exit_code=69,
    )
