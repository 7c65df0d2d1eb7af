"""`cdr-sync fetch`: one API call; nothing is stored."""

from __future__ import annotations

from contextlib import suppress

import click
import msgspec

from etl.cdr.answers import read_answer
from etl.cdr.parsing import parse_legs
from etl.cli.app import App, pass_app
from etl.cli.options import account_option
from etl.errors import (
    ApiUnavailableError,
    CdrSyncError,
    CredentialsRefusedError,
    RedirectedError,
    RefusedError,
    RequestError,
    TransientError,
    UsageError,
)
from etl.id_files import check_request_id
from etl.piopiy.client import Credentials, api_of
from etl.redaction import hide_secret_in_bytes


class _NoAnswerError(CdrSyncError):
    """The API gave no valid answer."""


@click.command("fetch")
@click.argument("request_id", metavar="ID")
@account_option
@pass_app
def command(app: App, request_id: str, account: str | None) -> None:
    """Ask the API once for request ID, and print its answer as it came; nothing is stored.

    stdout gets the body of the answer, indented if it is JSON, whether or not the answer is valid. The exit
    code says what it was.
    """
    if problem := check_request_id(1, request_id).problem:
        raise UsageError(f"ID {problem}")
    chosen = app.account(account)
    settings = app.settings
    api = api_of(settings)
    try:
        reply = api.fetch_answer(request_id, Credentials(chosen.app_id, chosen.secret))
        body = hide_secret_in_bytes(reply.body, chosen.secret)
        click.echo(_indented(body))
        parse_legs(read_answer(reply.status, body), region=settings.default_region)
    except RequestError as error:
        raise _failure(error) from None
    finally:
        api.close()


def _failure(error: RequestError) -> CdrSyncError:
    match error:
        case RefusedError(is_web_page=True):
            return CredentialsRefusedError(str(error))
        case RefusedError():
            remedy = "Either the credentials are wrong, or PIOPIY does not know this request"
            return CredentialsRefusedError(str(error), remedy=remedy)
        case RedirectedError():
            return _NoAnswerError(f"{error}; is CDR_SYNC_API_URL right?")
        case TransientError():
            return ApiUnavailableError(f"No valid answer ({error.reason}): {error}")
        case _:
            return _NoAnswerError(f"No valid answer ({error.reason}): {error}")


def _indented(body: bytes) -> str:
    """The body as it came, indented if it is JSON. Numbers keep their digits, strings their escapes."""
    with suppress(msgspec.DecodeError, RecursionError):  # not JSON
        body = msgspec.json.format(body, indent=2)
    return body.decode(errors="replace")
