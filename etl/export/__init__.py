"""Legs and calls as files: rows of values in, CSV or Parquet out. Knows no SQL."""
