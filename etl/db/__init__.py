"""What we store: the only package that knows SQL."""

# The newest migration. Here, so that a run can compare it without Alembic; a test compares the two.
SCHEMA_REVISION = "0002"
