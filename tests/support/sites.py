"""A site: processes of `cdr-sync`, one database of any kind, and the simulated API."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sqlalchemy import func, select, text

from etl.db.dialects import db_now
from etl.db.engine import read_url, reading
from etl.db.tables import api_accounts, call_legs, cdr_requests, sync_runs
from etl.simulator.scenarios import make_request_id
from support.operators import Finished, Operator, finish
from support.systems import System, a_moment

BLOCKED = {
    "postgresql": "SELECT pid FROM pg_stat_activity"
    " WHERE wait_event_type = 'Lock' AND datname = current_database()",
    "mariadb": "SELECT trx_mysql_thread_id FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}
SABOTEUR = str(Path(__file__).with_name("saboteur.py"))
UNGUARDED = str(Path(__file__).with_name("unguarded.py"))


def told_once(ended):
    """Whether a process reported an unusable database in one line and by its exit code."""
    line = re.fullmatch(r"cdr-sync: The database cannot be used: \S.*\n", ended.all)
    return ended.code == 69 and line is not None


class Site(System):
    """The whole product as its operator has it, on any database."""

    def __init__(self, url, engine, simulator, home, note):
        super().__init__(engine, simulator)
        self.url = url
        self.operator = Operator(home)
        self.operator.connect(simulator)
        self.operator.environment |= {"CDR_SYNC_DATABASE_URL": url, "CDR_SYNC_SETTLE": "0"}
        self._note = note

    def url_with(self, **query):
        """The URL of the database with something added, such as a time-out."""
        return read_url(self.url).update_query_dict(query).render_as_string(hide_password=False)

    @property
    def database_kind(self):
        name = self.engine.dialect.name
        return "mariadb" if name == "mysql" else name

    # What an operator types

    def start(self, *words, **environment):
        """Start `cdr-sync …` in a process of its own."""
        return self.operator.start(*words, **environment)

    def start_sabotaged(self, place, signal_name, *words, **environment):
        """Start `cdr-sync …` in a process that sends itself a signal; see `saboteur`."""
        return self.operator.start(
            place, signal_name, *words, program=(sys.executable, SABOTEUR), **environment
        )

    def start_changed(self, change, *words, **environment):
        """Start `cdr-sync …` in a process where a line of Python has changed the product first."""
        program = (sys.executable, "-c", f"{change}\nfrom etl.cli.main import main; main()")
        return self.operator.start(*words, program=program, **environment)

    def start_unfenced(self, *words, **environment):
        """Start `cdr-sync …` without its fence; see `unguarded`."""
        return self.operator.start(*words, program=(sys.executable, UNGUARDED), **environment)

    def run(self, *words, **environment):
        """Run `cdr-sync …` to its end in a process of its own."""
        return finish(self.start(*words, **environment))

    def type(self, *words, **environment):
        """Run `cdr-sync …` in this process: the same, but faster."""
        result = self.operator.type(*words, **environment)
        return Finished(result.exit_code, result.stdout, result.stderr)

    def fill(self, count, seed=1):
        """Enqueue as many invented request IDs; returns them."""
        request_ids = [make_request_id(number, seed) for number in range(count)]
        self.enqueue(*request_ids)
        return request_ids

    # What a person with SQL sees

    def sql(self, statement, **values):
        """The rows of a statement that every database understands."""
        with reading(self.engine) as connection:
            return [tuple(row) for row in connection.execute(text(statement), values)]

    def running(self):
        """The IDs of the requests that are claimed at the moment."""
        return {name for (name,) in self.sql("SELECT request_id FROM cdr_requests WHERE state = 'running'")}

    def blocked(self):
        """The numbers of the server's connections that wait for a lock."""
        a_moment(0.15)  # MariaDB refreshes this table only when it is not read all the time
        return [number for (number,) in self.sql(BLOCKED[self.database_kind])]

    def leased(self):
        """How many claims have not run out yet."""
        column = cdr_requests.c
        with reading(self.engine) as connection:
            statement = select(func.count()).where(column.state == "running", column.lease_until >= db_now())
            return connection.scalar(statement)

    def ledger(self, *names):
        """The sums of some columns over all runs."""
        rows = self.rows(sync_runs)
        return tuple(sum(row[name] for row in rows) for name in names)

    def outcomes(self):
        """How each run of the ledger ended, the oldest first."""
        return [row["outcome"] for row in self.rows(sync_runs)]

    def account(self):
        """The row of the one account, with its breaker and its pause."""
        return self.row(api_accounts)

    def is_breaker_open(self):
        return self.account()["breaker_opened_at"] is not None

    def asked_twice(self):
        """The IDs for which the API was asked more than once."""
        return {request_id for request_id, count in self.simulator.calls.items() if count > 1}

    def stored_legs(self):
        """The stored legs that the latest answers contain, in the form of `true_legs`."""
        column = call_legs.c
        with reading(self.engine) as connection:
            rows = connection.execute(
                select(
                    column.request_id,
                    column.leg,
                    column.from_number,
                    column.to_number,
                    column.duration_seconds,
                ).where(column.missing_since.is_(None))
            )
            return sorted(tuple(row) for row in rows)

    def true_legs(self):
        """The legs that must be stored: those of every request that is done, and no others."""
        column = cdr_requests.c
        with reading(self.engine) as connection:
            done = connection.scalars(select(column.request_id).where(column.state == "done")).all()
        return sorted(
            (request_id, leg["leg"], str(leg["from"]).strip(), str(leg["to"]).strip(), int(leg["duration"]))
            for request_id in done
            for leg in self.simulator.legs_of(request_id)
        )

    def report(self, outcome):
        """Compare the stored legs with the simulator's, and add this fault's row to the final table."""
        expected, found = self.true_legs(), self.stored_legs()
        ((requests,),) = self.sql("SELECT COUNT(*) FROM cdr_requests")
        self._note(
            database=self.database_kind,
            outcome=outcome,
            requests=requests,
            api_calls=self.simulator.total_calls,
            legs_expected=len(expected),
            legs_found=len(found),
        )

        assert found == expected
