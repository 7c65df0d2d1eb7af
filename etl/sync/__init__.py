"""The job: claim, fetch, decide, settle.

`run` is the coordinator, the only thread that uses the database. The threads of `fetching` are the only ones
that call the API. `account` judges their results for one account. `claim` and `settle` are the two parts of a
transaction, and `ledger` is the run's row in the database.
"""
