"""`cdr-sync fetch`: one question to the API, and nothing stored."""

from __future__ import annotations

import json

import click

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
from etl.redaction import hide_secret_in_bytes


class _NoAnswerError(CdrSyncError):
    """The API gave no valid answer."""


@click.command("fetch")
@click.argument("request_id", metavar="ID")
@account_option
@pass_app
def command(app: App, request_id: str, account: str | None) -> None:
    """Ask the API once for request ID, and print its answer as it came; nothing is stored.

    What is printed on stdout is the answer's body, if it is JSON indented. An answer that is not valid is
    printed too, and the exit code says what it was.
    """
    from etl.cdr.answers import is_page, read_answer  # noqa: PLC0415
    from etl.cdr.parsing import parse_legs  # noqa: PLC0415
    from etl.piopiy.client import CdrApi, Credentials  # noqa: PLC0415

    if problem := check_request_id(1, request_id).problem:
        raise UsageError(f"ID {problem}")
    chosen = app.account(account)
    settings = app.settings
    api = CdrApi(
        settings.api_url,
        timeout=settings.request_timeout.total_seconds(),
        proxy=settings.proxy or None,
    )
    try:
        reply = api.fetch_answer(request_id, Credentials(chosen.app_id, chosen.secret))
        body = hide_secret_in_bytes(reply.body, chosen.secret)
        click.echo(_shown(body))
        parse_legs(read_answer(reply.status, body), region=settings.default_region)
    except RefusedError as error:
        doubt = "" if is_page(body) else ": the credentials are wrong, or PIOPIY does not know this request"
        raise CredentialsRefusedError(f"{error}{doubt}") from None
    except RedirectedError as error:
        raise _NoAnswerError(f"{error}; is CDR_SYNC_API_URL right?") from None
    except TransientError as error:
        raise ApiUnavailableError(f"no valid answer ({error.reason}): {error}") from None
    except RequestError as error:
        raise _NoAnswerError(f"no valid answer ({error.reason}): {error}") from None
    finally:
        api.close()


def _shown(body: bytes) -> str:
    """The body as it came, only laid out: numbers keep their digits."""
    text = body.decode(errors="replace")
    try:
        content = json.loads(text, parse_float=_Digits, parse_int=_Digits)
    except (ValueError, RecursionError):
        return text
    return _indented(content)


class _Digits(str):
    """A number's text, which is to be printed as it was sent."""

    __slots__ = ()


def _indented(value: object, margin: str = "") -> str:
    inner = f"{margin}  "
    match value:
        case _Digits():
            return str(value)
        case dict() if value:
            fields = (
                f"{inner}{json.dumps(name, ensure_ascii=False)}: {_indented(v, inner)}"
                for name, v in value.items()
            )
            return "{\n" + ",\n".join(fields) + f"\n{margin}}}"
        case list() if value:
            return "[\n" + ",\n".join(f"{inner}{_indented(v, inner)}" for v in value) + f"\n{margin}]"
        case _:
            return json.dumps(value, ensure_ascii=False)
