"""What we store: the only package that knows SQL."""

# The newest migration. Kept here, so that a run can look at it without Alembic; a test holds it true.
SCHEMA_REVISION = "0004"
