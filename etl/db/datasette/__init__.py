"""What Datasette is told about a database: words, ready questions, and a dashboard.

SQLite alone: Datasette reads nothing else.
"""
