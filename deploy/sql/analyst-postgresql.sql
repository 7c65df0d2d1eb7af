-- A role for analysts, which reads only views and legs. Run this file as a superuser, or as the owner of the database
-- and its tables with CREATEROLE:
--
--   psql -X -v ON_ERROR_STOP=1 -v analyst=cdr_analyst -f deploy/sql/analyst-postgresql.sql postgresql://OWNER@HOST/cdr
--
-- Then set a password with psql's \password cdr_analyst, which sends no plain text. Run this file again after each
-- `cdr-sync db upgrade`: until then, the role cannot read recreated views. It is safe to repeat.
--
-- Analysts cannot read the queue with its tokens (cdr_requests), the raw archive (cdr_responses), the accounts' state
-- (api_accounts) or the ledger with its hosts and errors (sync_runs). Views run with the rights of their owner, so
-- sync_coverage and data_quality still count the queue.

\if :{?analyst}
\else
    \set analyst cdr_analyst
\endif

BEGIN;

SELECT format('CREATE ROLE %I LOGIN CONNECTION LIMIT 10', :'analyst')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'analyst') \gexec

SELECT current_database() AS database, relnamespace::regnamespace::text AS schema, relowner::regrole::text AS owner
FROM pg_class WHERE oid = 'call_legs'::regclass \gset

-- By default every role may create temporary tables, and before PostgreSQL 15 tables in the schema `public`. Only the
-- owner keeps these rights.
GRANT CREATE ON SCHEMA :schema TO :owner;
GRANT TEMPORARY ON DATABASE :"database" TO :owner;
REVOKE CREATE ON SCHEMA :schema FROM PUBLIC;
REVOKE TEMPORARY ON DATABASE :"database" FROM PUBLIC;

-- By default every role may create large objects, and its sorts may fill the disk. Only a superuser can change that.
SELECT 'REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC'
WHERE (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) \gexec
SELECT format('ALTER ROLE %I IN DATABASE %I SET temp_file_limit = %L', :'analyst', :'database', '10GB')
WHERE (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) \gexec

REVOKE ALL ON ALL TABLES IN SCHEMA :schema FROM :"analyst";
GRANT CONNECT ON DATABASE :"database" TO :"analyst";
GRANT USAGE ON SCHEMA :schema TO :"analyst";
GRANT SELECT ON calls, calls_daily, destinations, sync_coverage, data_quality, rate_evidence TO :"analyst";
GRANT SELECT ON call_legs TO :"analyst";
-- `cdr-sync export` checks the revision of the schema first.
GRANT SELECT ON alembic_version TO :"analyst";

-- Defaults that limit the damage of mistakes. A session can change them, but not the grants above.
ALTER ROLE :"analyst" IN DATABASE :"database" SET search_path = :schema;
ALTER ROLE :"analyst" IN DATABASE :"database" SET default_transaction_read_only = on;
ALTER ROLE :"analyst" IN DATABASE :"database" SET statement_timeout = '5min';
ALTER ROLE :"analyst" IN DATABASE :"database" SET lock_timeout = '5s';
-- An open transaction keeps PostgreSQL from removing deleted rows.
ALTER ROLE :"analyst" IN DATABASE :"database" SET idle_in_transaction_session_timeout = '5min';

COMMIT;
