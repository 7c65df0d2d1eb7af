"""How a backfill goes: mark what is selected, work it off, and say how its batch stands."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from etl.cli import backfill_texts as texts
from etl.cli.app import App
from etl.cli.id_lists import IdList, distinct
from etl.cli.naming import require_known, warn_of_stranger
from etl.cli.options import Share
from etl.cli.output import print_json
from etl.cli.running import report_problems, run_job, summary_document, summary_text
from etl.db.states import PENDING, RUNNING
from etl.settings import DEFAULT_ACCOUNT

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from etl.db.selection import Selection
    from etl.replay import Order, Result
    from etl.sync.summary import Summary

_LINE_SECONDS = 5.0  # from one line to the next while requests are marked


@dataclass(frozen=True, slots=True)
class Backfill:
    """How a backfill is to be done, whatever it is of."""

    app: App
    account: str | None
    names: Sequence[str]  # of the accounts that are meant; none stands for any
    time_limit: timedelta | None
    max_failures: Share | None
    is_dry_run: bool
    as_json: bool

    def begin(self, selection: Selection, ids: IdList | None, batch: str | None, *, is_run: bool) -> None:
        """Mark what is selected, and work it off; or only tell what that would be."""
        from etl.db.engine import reading  # noqa: PLC0415
        from etl.db.selection import marking, new_label  # noqa: PLC0415
        from etl.replay import NEW, Order, foresee  # noqa: PLC0415

        lots = None if ids is None else ids.lots()  # a list that cannot be read makes no database
        engine = self.app.engine(creates=lots is not None and not self.is_dry_run)
        with reading(engine) as connection:
            # An account of listed IDs may be new: those that are unknown are enqueued for it.
            known = None if lots is not None else self.account
            require_known(self.app, connection, account=known, batch=selection.batch)
            label = batch or new_label(connection)
        order = Order(replace(selection, unmarked_by=label), marking(label), self.account, label)
        if self.is_dry_run:
            result = foresee(engine, order, None if lots is None else distinct(lots))
        else:
            result = self._mark(engine, order, label, lots)
        if ids is not None:
            ids.require_any()
        account = self.account or DEFAULT_ACCOUNT
        if result.changed[account, NEW]:
            warn_of_stranger(self.app, account)
        if self.is_dry_run:
            self._forecast(engine, label, result)
        elif is_run:
            self._work_off(engine, label, result)
        else:
            self._tell(label, result)

    def resume(self, label: str) -> None:
        """Work off what is left of a batch."""
        from etl.db.engine import reading  # noqa: PLC0415
        from etl.replay import Result  # noqa: PLC0415

        engine = self.app.engine(creates=False)
        with reading(engine) as connection:
            require_known(self.app, connection, batch=label)
        if self.is_dry_run:
            self._forecast(engine, label, Result())
        else:
            self._work_off(engine, label, Result())

    def _mark(self, engine: Engine, order: Order, label: str, lots: Iterator[list[str]] | None) -> Result:
        """Mark page by page. A signal or a kill leaves whole pages, and the same command does the rest."""
        from etl.replay import carry_out  # noqa: PLC0415
        from etl.sync.signals import exit_on_sigterm  # noqa: PLC0415

        try:
            with exit_on_sigterm():
                return carry_out(engine, order, lots, on_page=self._marking_teller(label))
        except (KeyboardInterrupt, SystemExit):
            if sys.stderr.isatty():
                click.echo(err=True)  # the terminal has put ^C into the line
            texts.notify(self.app, texts.cut_short(label), batch=label)
            raise

    def _marking_teller(self, label: str) -> Callable[[Result], None]:
        told: list[float] = []

        def tell(result: Result) -> None:
            if not told:
                texts.notify(self.app, texts.begun(label), batch=label)
                told.append(time.monotonic())
            elif time.monotonic() - told[-1] >= _LINE_SECONDS:
                texts.notify(self.app, f"{result.total:,} requests are marked so far", batch=label)
                told.append(time.monotonic())

        return tell

    def _forecast(self, engine: Engine, label: str, result: Result) -> None:
        from etl.backfill import forecast  # noqa: PLC0415
        from etl.db.engine import reading  # noqa: PLC0415

        with reading(engine) as connection:
            ahead = forecast(
                connection,
                label=label,
                accounts=self.names,
                selected=result.accounts,
                rate_limit=self.app.settings.rate_limit,
            )
        if self.as_json:
            print_json({**texts.result_document(result), **texts.forecast_document(ahead)})
        else:
            if result.total or not ahead.calls or result.marked:
                click.echo(texts.result_text(result, is_dry_run=True))
            if ahead.calls:
                click.echo(texts.forecast_text(ahead))

    def _tell(self, label: str, result: Result) -> None:
        """Tell what was marked, where nothing is run."""
        if self.as_json:
            print_json({"batch": label, **texts.result_document(result)})
            return
        click.echo(texts.result_text(result))
        if result.total:
            click.echo(texts.how_to_go_on(label))

    def _work_off(self, engine: Engine, label: str, result: Result) -> None:
        """Run the job for the batch, if anything of it waits, and say how it stands then."""
        from etl.db.engine import reading  # noqa: PLC0415
        from etl.db.selection import batch_figures, batch_states  # noqa: PLC0415
        from etl.sync.summary import Summary  # noqa: PLC0415

        with reading(engine) as connection:
            states = batch_states(connection, label, self.names)
        if result.total:
            texts.notify(self.app, texts.result_text(result), batch=label)
        summary = self._run(engine, label, states[PENDING]) if states[PENDING] + states[RUNNING] else None
        with reading(engine) as connection:
            figures = batch_figures(connection, label)
        if self.as_json:
            run = summary_document(summary or Summary()) | ({} if summary else {"run": None})
            batch = texts.batch_document(figures)
            print_json({"batch": label, **texts.result_document(result), **run, **batch})
        else:
            click.echo(summary_text(summary) if summary else texts.result_text(result))
            if figures.states:
                click.echo(texts.batch_text(label, figures))
        raise click.exceptions.Exit(summary.exit_code if summary else 0)

    def _run(self, engine: Engine, label: str, waiting: int) -> Summary:
        from etl.sync.summary import Limits  # noqa: PLC0415

        most = self.max_failures.of(waiting) if self.max_failures else None
        summary = run_job(
            self.app,
            self.app.accounts(self.account),
            Limits(None, self.time_limit, label, most),
            engine=engine,
            command="backfill",
            logs_progress=True,
        )
        report_problems(self.app, summary)
        if summary.has_too_many_failures:
            self.app.log.error(texts.too_many_failures(label, most), batch=label)
        return summary
