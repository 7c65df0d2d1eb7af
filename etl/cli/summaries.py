"""What each command does, in a line: for `cdr-sync --help`, which must not load them all."""

SUMMARIES = {
    "demo": "Show the whole job with nothing configured, against a simulated API.",
    "db": "Create the tables, bring them up to date, and check them.",
    "enqueue": "Add request IDs to the queue.",
    "sync": "Ask the API for every request that is due, and store its legs.",
    "backfill": "Ask again for many known requests, behind the live ones.",
    "fetch": "Ask the API once for one request, and print its answer.",
    "status": "Tell how the queue stands.",
    "runs": "List the latest runs, or show one.",
    "requests": "Look into single requests, replay or cancel them.",
    "doctor": "Check settings, database and API, and say how to mend what is amiss.",
    "reprocess": "Derive legs again from the archived answers, asking nothing.",
    "export": "Write legs or calls as CSV or Parquet.",
    "report": "Report on the calls of a period: a page with plots, or bars in the terminal.",
    "metadata": "Describe the database for Datasette, which shows it in a browser.",
    "simulator": "Run a stand-in of the API on this machine.",
}
