"""The schema: the migrations build what the models describe, and the database refuses contradictions."""

from __future__ import annotations

import ast
import re
from datetime import timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from sqlalchemy import event, exc, inspect
from sqlalchemy.dialects.mysql.reserved_words import RESERVED_WORDS_MYSQL
from support.builders import AN_INSTANT
from support.builders import fill_tables as fill

from etl.db import SCHEMA_REVISION
from etl.db.engine import read_url, reading, require_current_schema, schema_revision
from etl.db.errors import is_bad_value, is_unreachable
from etl.db.queue import Claimant, claim_requests, reap_expired
from etl.db.schema import (
    DAY_INDEX,
    check,
    downgrade,
    is_in_models,
    migrations_folder,
    texts_of_views,
    upgrade,
)
from etl.db.tables import call_legs, cdr_requests, metadata, sync_runs
from etl.db.views import VIEWS
from etl.errors import FailedCheckError, SchemaError

TABLES = tuple(metadata.sorted_tables)


@pytest.fixture
def only_sqlite(engine):
    if engine.dialect.name != "sqlite":
        pytest.skip("only for SQLite")


def test_the_schema_goes_down_to_nothing_and_up_again_under_rows_in_every_state(engine):
    fill(engine)

    downgrade(engine, "base")
    with engine.connect() as connection:
        left = inspect(connection)
        tables, views = left.get_table_names(), left.get_view_names()
    upgrade(engine)
    fill(engine)

    assert tables == ["alembic_version"]
    assert views == []
    check(engine)


def test_upgrading_twice_changes_nothing(database):
    fill(database.engine)
    before = database.rows(cdr_requests)

    upgrade(database.engine)

    assert database.rows(cdr_requests) == before


def test_the_migrations_build_what_the_models_say(engine):
    check(engine)


@pytest.mark.databases("postgresql")
def test_the_tables_may_stand_in_any_schema_that_is_searched(engine):
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE SCHEMA theirs"))
        connection.execute(
            sa.text(f'ALTER ROLE cdr IN DATABASE "{engine.url.database}" SET search_path = theirs, public')
        )
    engine.dispose()

    check(engine)


def test_a_schema_that_differs_from_the_models_is_reported(engine):
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE cdr_requests ADD COLUMN surprise INTEGER"))

    with pytest.raises(FailedCheckError, match="surprise"):
        check(engine)


def test_a_missing_index_is_reported(engine):
    with engine.begin() as connection:
        next(iter(index for index in cdr_requests.indexes if index.name == "ix_cdr_requests_due")).drop(
            connection
        )

    with pytest.raises(FailedCheckError, match="ix_cdr_requests_due"):
        check(engine)


def test_a_missing_index_by_day_is_reported_although_it_is_not_in_the_models(engine):
    of_table = " ON call_legs" if engine.dialect.name == "mysql" else ""
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP INDEX {DAY_INDEX}{of_table}"))

    with pytest.raises(FailedCheckError, match=DAY_INDEX):
        check(engine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("DROP VIEW rate_evidence", r"missing_view.*rate_evidence"),
        (
            "DROP VIEW rate_evidence; CREATE VIEW rate_evidence AS SELECT 1 AS surprise",
            r"(?s)missing_column.*rate_evidence.*balance_fall.*unknown_column.*rate_evidence.*surprise",
        ),
    ],
)
def test_a_view_that_differs_is_reported_and_recreated_by_a_downgrade_and_an_upgrade(engine, change, message):
    with engine.begin() as connection:
        for statement in change.split("; "):
            connection.execute(sa.text(statement))

    with pytest.raises(FailedCheckError, match=message):
        check(engine)
    downgrade(engine, "0001")
    upgrade(engine)
    check(engine)


@pytest.mark.databases("sqlite", "postgresql")  # MariaDB rewrites a query beyond comparison
@pytest.mark.parametrize("view", [view.name for view in VIEWS])
def test_a_view_with_the_same_columns_and_another_query_is_reported(engine, view):
    other = f"SELECT * FROM ({texts_of_views(engine.dialect.name)[view]}) AS those WHERE 1 = 2"  # noqa: S608
    with engine.begin() as connection:
        drop_views(connection, view)
        for name, text in texts_of_views(engine.dialect.name).items():
            if name == view:
                connection.exec_driver_sql(f"CREATE VIEW {name} AS {other}")
            elif is_below(view, name):
                connection.exec_driver_sql(f"CREATE VIEW {name} AS\n{text}")

    with pytest.raises(
        FailedCheckError, match=rf"(?s)^The tables differ[^\n]*\n  \('changed_view', '{view}'\)$"
    ):
        check(engine)


def drop_views(connection, view):
    """Drop a view, and those that read it."""
    for name in ("calls_daily", "destinations") if view == "calls" else ():
        connection.execute(sa.text(f"DROP VIEW {name}"))
    connection.execute(sa.text(f"DROP VIEW {view}"))


def is_below(view, name):
    return view == "calls" and name in ("calls_daily", "destinations")


@pytest.mark.databases("postgresql")
def test_views_restored_from_a_dump_are_not_reported(engine):
    """A dump has the queries as the server rewrote them."""
    with engine.begin() as connection:
        dumped = {
            view.name: connection.scalar(sa.text(f"SELECT pg_get_viewdef('{view.name}')")) for view in VIEWS
        }
        for name in reversed(dumped):
            connection.execute(sa.text(f"DROP VIEW {name}"))
        for name, query in dumped.items():
            connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")

    check(engine)


@pytest.mark.databases("postgresql")
def test_it_is_reported_if_views_cannot_be_compared(engine):
    with engine.begin() as connection:
        database = engine.url.database
        connection.execute(sa.text(f"ALTER DATABASE {database} SET default_transaction_read_only = on"))
    engine.dispose()

    with pytest.raises(FailedCheckError, match=r"views_not_compared.*read-only"):
        check(engine)


@pytest.mark.databases("postgresql")  # the others drop what a view needs
def test_views_of_others_that_depend_on_ours_are_named_and_nothing_is_changed(engine):
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE VIEW mine AS SELECT calls FROM calls_daily"))
        connection.execute(sa.text("CREATE VIEW hers AS SELECT calls FROM calls_daily"))

    with pytest.raises(SchemaError, match=r"view hers depends on view calls_daily\. Drop them") as refused:
        downgrade(engine, "0001")

    assert "view mine depends on view calls_daily; " in str(refused.value)
    assert "\n" not in str(refused.value)
    check(engine)


@pytest.mark.databases("sqlite", "mariadb")  # PostgreSQL keeps what a view needs
def test_a_view_whose_table_is_gone_is_reported(engine):
    with engine.begin() as connection:
        connection.execute(sa.text("DROP VIEW rate_evidence"))
        connection.execute(sa.text("CREATE TABLE gone (x INTEGER)"))
        connection.execute(sa.text("CREATE VIEW rate_evidence AS SELECT x FROM gone"))
        connection.execute(sa.text("DROP TABLE gone"))

    with pytest.raises(FailedCheckError, match=r"broken_view.*rate_evidence"):
        check(engine)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_models_alone_would_build_the_same_table(engine, unmigrated_engine, table):
    if engine.dialect.name == "mysql":  # where the migrations give all text one collation
        with unmigrated_engine.begin() as connection:
            connection.execute(sa.text("ALTER DATABASE COLLATE utf8mb4_nopad_bin"))
    metadata.create_all(unmigrated_engine)

    from_migrations, from_models = looked_at(engine, table), looked_at(unmigrated_engine, table)

    assert from_migrations == from_models


def looked_at(engine, table):
    """A table in the words of the database itself."""
    with engine.connect() as connection:
        seen = inspect(connection)
        return {
            "columns": [
                {**each, "type": str(each["type"])}
                for each in seen.get_columns(table.name)
                if is_in_models(None, each["name"])
            ],
            "key": seen.get_pk_constraint(table.name),
            "unique": by_name(seen.get_unique_constraints(table.name)),
            "checks": by_name(seen.get_check_constraints(table.name)),
            "indexes": [
                {**each, "dialect_options": {k: str(v) for k, v in each.get("dialect_options", {}).items()}}
                for each in by_name(seen.get_indexes(table.name))
                if is_in_models(None, each["name"])
            ],
        }


def by_name(things):
    return sorted(things, key=lambda thing: thing["name"])


def test_the_revision_that_the_code_asks_for_is_the_newest_migration(engine):
    with reading(engine) as connection:
        found = schema_revision(connection)
    newest = ScriptDirectory(str(migrations_folder())).get_current_head()

    assert newest == SCHEMA_REVISION
    assert found == SCHEMA_REVISION


def test_the_current_schema_is_accepted(engine):
    with reading(engine) as connection:
        require_current_schema(connection)


def test_a_database_without_tables_is_refused_with_the_remedy(unmigrated_engine):
    with (
        reading(unmigrated_engine) as connection,
        pytest.raises(SchemaError, match="cdr-sync db upgrade"),
    ):
        require_current_schema(connection)


@pytest.mark.parametrize(("found", "remedy"), [("0001", "cdr-sync db upgrade"), ("9999", "Upgrade cdr-sync")])
def test_a_schema_that_is_behind_or_ahead_is_refused_with_the_remedy(engine, found, remedy):
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :found"), {"found": found})

    with reading(engine) as connection, pytest.raises(SchemaError, match=remedy):
        require_current_schema(connection)


def test_every_table_and_column_has_the_same_comment_in_models_and_migrations(unmigrated_engine):
    built = {}

    def note(table, _connection, **_):
        columns = {each.name: each.comment for each in table.columns if is_in_models(None, each.name)}
        built[table.name] = (table.comment, columns)

    event.listen(sa.Table, "after_create", note)
    try:
        upgrade(unmigrated_engine)
    finally:
        event.remove(sa.Table, "after_create", note)
    said = {table.name: (table.comment, {c.name: c.comment for c in table.columns}) for table in TABLES}

    del built["alembic_version"]
    assert built == said
    assert all(comment for comment, _ in said.values())
    assert all(comment for _, columns in said.values() for comment in columns.values())


def test_the_comments_reach_every_database_that_has_comments(engine):
    if not engine.dialect.supports_comments:
        pytest.skip(f"{engine.dialect.name} has no comments")
    with engine.connect() as connection:
        seen = inspect(connection)
        found = {
            t.name: {
                c["name"]: c["comment"] for c in seen.get_columns(t.name) if is_in_models(None, c["name"])
            }
            for t in TABLES
        }

    assert found == {table.name: {c.name: c.comment for c in table.columns} for table in TABLES}


NAMES = {
    "cdr_requests": {
        "uq_cdr_requests_account_request_id",
        "ck_cdr_requests_state_is_known",
        "ck_cdr_requests_lane_is_known",
        "ck_cdr_requests_running_means_leased",
        "ck_cdr_requests_finished_means_dated",
        "ck_cdr_requests_counts_are_natural",
        "ix_cdr_requests_due",
        "ix_cdr_requests_leased",
        "ix_cdr_requests_dead",
        "ix_cdr_requests_batch",
    },
    "call_legs": {
        "ck_call_legs_occurrence_counts_from_one",
        "ck_call_legs_revision_counts_from_one",
        "ix_call_legs_call_time",
        "ix_call_legs_from_e164",
        "ix_call_legs_to_e164",
    },
    "cdr_responses": set(),
    "sync_runs": {"ck_sync_runs_outcome_is_known", "ix_sync_runs_running"},
    "api_accounts": set(),
    "backfills": set(),
}


@pytest.mark.parametrize("table", NAMES)
def test_every_constraint_and_index_has_a_stable_name(engine, table):
    with engine.connect() as connection:
        seen = inspect(connection)
        found = {
            *(each["name"] for each in seen.get_unique_constraints(table)),
            *(each["name"] for each in seen.get_check_constraints(table)),
            *(each["name"] for each in seen.get_indexes(table) if not each["unique"]),
        } - {
            # SQLite's cannot be read: see the test of `check`
            DAY_INDEX
        }

    assert found == NAMES[table]


LEASED = {"lease_token": "0" * 32, "lease_until": AN_INSTANT}


@pytest.mark.parametrize(
    ("constraint", "values"),
    [
        ("state_is_known", {"state": "waiting"}),
        ("state_is_known", {"state": "Pending"}),
        ("state_is_known", {"state": ""}),
        ("lane_is_known", {"lane": 2}),
        ("lane_is_known", {"lane": -1}),
        ("running_means_leased", {"state": "running"}),
        ("running_means_leased", {"state": "running", "lease_token": "0" * 32}),
        ("running_means_leased", {"state": "running", "lease_until": AN_INSTANT}),
        ("running_means_leased", {"lease_token": "0" * 32}),
        ("running_means_leased", {"lease_until": AN_INSTANT}),
        ("running_means_leased", {"state": "done", "finished_at": AN_INSTANT, **LEASED}),
        ("finished_means_dated", {"state": "done"}),
        ("finished_means_dated", {"state": "empty"}),
        ("finished_means_dated", {"state": "dead"}),
        ("finished_means_dated", {"state": "cancelled"}),
        ("finished_means_dated", {"finished_at": AN_INSTANT}),
        ("finished_means_dated", {"state": "running", "finished_at": AN_INSTANT, **LEASED}),
        ("counts_are_natural", {"attempts": -1}),
        ("counts_are_natural", {"fetches": -1}),
        ("counts_are_natural", {"reclaims": -1}),
        ("counts_are_natural", {"leg_count": -1}),
    ],
)
def test_the_database_refuses_a_request_that_contradicts_itself(database, constraint, values):
    database.enqueue("one")
    before = database.request("one")

    with pytest.raises(exc.DBAPIError, match=f"ck_cdr_requests_{constraint}") as caught:
        database.change("one", **values)

    assert is_bad_value(caught.value)
    assert not is_unreachable(caught.value)
    assert database.request("one") == before


@pytest.mark.parametrize(
    ("table", "constraint", "values"),
    [
        (call_legs, "occurrence_counts_from_one", {"occurrence": 0}),
        (call_legs, "revision_counts_from_one", {"revision": 0}),
        (sync_runs, "outcome_is_known", {"outcome": "great"}),
    ],
)
def test_the_database_refuses_a_row_that_contradicts_itself(engine, table, constraint, values):
    fill(engine)

    with (
        pytest.raises(exc.DBAPIError, match=f"ck_{table.name}_{constraint}") as caught,
        engine.begin() as connection,
    ):
        connection.execute(table.update().values(values))

    assert is_bad_value(caught.value)


def test_the_database_refuses_the_same_request_twice_in_one_account_and_takes_it_in_another(database):
    database.enqueue("one", account="sales")
    database.enqueue("one", account="support")

    with pytest.raises(exc.IntegrityError), database.engine.begin() as connection:
        connection.execute(cdr_requests.insert().values(account="sales", request_id="one"))

    assert len(database.rows(cdr_requests, request_id="one")) == 2


def test_the_next_run_asks_for_a_plain_insert_of_any_client(system, database_url):
    client = sa.create_engine(read_url(database_url))  # without the settings of our own connections
    with client.begin() as connection:
        connection.exec_driver_sql("INSERT INTO cdr_requests (request_id) VALUES ('answered-1')")
    client.dispose()

    summary = system.sync()

    assert summary.exit_code == 0
    assert system.request("answered-1")["state"] == "done"
    assert system.request("answered-1")["account"] == "default"
    assert len(system.rows(call_legs, request_id="answered-1")) == 2


@pytest.mark.parametrize(
    "path", sorted(migrations_folder().glob("versions/*.py")), ids=lambda path: path.stem
)
def test_a_migration_does_not_import_the_application(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add((node.module or "etl").partition(".")[0] if not node.level else "etl")

    assert imported <= {"__future__", "collections", "typing", "sqlalchemy", "alembic"}


@pytest.mark.parametrize(
    "path", sorted(migrations_folder().glob("versions/*.py")), ids=lambda path: path.stem
)
def test_a_migration_begins_with_a_verb_and_says_why(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))

    assert docstring
    assert docstring.partition("\n")[0].endswith(".")
    assert "\nWhy: " in docstring


# What SQLAlchemy's list lacks: reserved by MySQL from 8.0.31 to 9.x.
NEW_RESERVED = {"full", "intersect", "manual", "parallel", "qualify", "tablesample", "library", "external"}


def test_every_name_is_legal_without_quotes_on_mysql(engine):
    """Those of tables, views, columns, indexes and constraints, also what analysts type."""
    reserved = RESERVED_WORDS_MYSQL | NEW_RESERVED
    with reading(engine) as connection:
        seen = inspect(connection)
        tables, views = seen.get_table_names(), seen.get_view_names()
        names = {
            *tables,
            *views,
            *(each["name"] for of in (*tables, *views) for each in seen.get_columns(of)),
        }
    names |= {name for of_table in NAMES.values() for name in of_table}

    assert {"cdr_requests", "data_quality", "number", "ix_cdr_requests_due"} <= names
    assert {
        name for name in names if name in reserved or not re.fullmatch("[a-z][a-z0-9_]{0,63}", name)
    } == set()
    assert "empty" in reserved


@pytest.mark.databases("postgresql")
def test_postgresql_keeps_the_digits_of_an_amount_without_padding(engine):
    fill(engine)
    with engine.begin() as connection:
        connection.execute(
            call_legs.update().values(rate=Decimal("0.50"), balance=Decimal("-1134.123456789012345678"))
        )
    questions = {
        "0.50": "SELECT DISTINCT rate::text FROM call_legs",
        "-1134.123456789012345678": "SELECT DISTINCT balance::text FROM call_legs",
        "1.00": "SELECT billed_rate_total::text FROM calls",
    }
    with reading(engine) as connection:
        found = [connection.scalar(sa.text(question)) for question in questions.values()]

    assert found == list(questions)


def plan_of(engine, work, verb):
    """The plans of the statements with this verb that `work` executes."""
    said = []

    def note(_connection, _cursor, statement, parameters, _context, _many):
        said.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    with engine.begin() as connection:
        work(connection)
    event.remove(engine, "before_cursor_execute", note)
    plans = []
    with reading(engine) as connection:
        for statement, parameters in said:
            if statement.strip().startswith(verb):
                explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
                rows = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
                plans.append("\n".join(" ".join(map(str, row)) for row in rows))
    return plans


def claim(batch):
    def work(connection):
        claim_requests(connection, "default", Claimant("", 1, timedelta(minutes=5), batch), most=100)

    return work


@pytest.fixture(params=["unknown statistics", "known statistics"])
def crowded_engine(request, database):
    """A queue where most requests are done, with and without statistics in the database."""
    database.enqueue(*(f"done {number}" for number in range(2_000)))
    database.change(state="done", finished_at=AN_INSTANT)
    database.enqueue(*(f"deferred {number}" for number in range(500)), delay=timedelta(days=1))
    database.enqueue(*(f"due {number}" for number in range(20)))
    if request.param == "known statistics":
        with database.engine.begin() as connection:
            is_mysql = connection.dialect.name == "mysql"
            connection.execute(sa.text("ANALYZE TABLE cdr_requests" if is_mysql else "ANALYZE"))
    return database.engine


@pytest.mark.usefixtures("only_sqlite")
@pytest.mark.parametrize("batch", [None, "march"])
def test_a_claim_looks_up_what_is_due_in_the_order_of_its_index(crowded_engine, batch):
    plans = plan_of(crowded_engine, claim(batch), "UPDATE")

    index = "ix_cdr_requests_batch (batch=? AND " if batch else "ix_cdr_requests_due ("
    assert len(plans) == 2  # a lane each
    for plan in plans:
        assert f"INDEX {index}state=? AND account=? AND lane=? AND run_after<?)" in plan
        assert "SCAN cdr_requests" not in plan
        assert "TEMP B-TREE" not in plan


@pytest.mark.usefixtures("only_sqlite")
def test_reclaiming_looks_up_the_expired_leases(crowded_engine):
    plans = plan_of(crowded_engine, lambda connection: reap_expired(connection, max_attempts=8), "UPDATE")

    (plan,) = plans
    assert "INDEX ix_cdr_requests_leased (state=? AND lease_until<?)" in plan
    assert "SCAN cdr_requests" not in plan


def test_a_claim_on_a_server_looks_up_what_is_due_in_the_order_of_its_index(crowded_engine):
    if crowded_engine.dialect.name == "sqlite":
        pytest.skip("SQLite has a test of its own")
    verb = {"postgresql": "WITH due", "mysql": "SELECT id FROM"}[crowded_engine.dialect.name]

    plans = plan_of(crowded_engine, claim(None), verb)

    assert len(plans) == 2  # a lane each
    for plan in plans:
        assert "ix_cdr_requests_due" in plan
        assert "Sort" not in plan
        assert "filesort" not in plan
