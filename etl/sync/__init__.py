"""THE JOB: claim → ask → decide → store and settle. The one subject that knows both rules and tables.

`job` is the coordinator, which alone talks to the database; `asking` are the threads that alone talk to the
API; `desk` judges what they bring for one account; `settling` stores it, fenced, in one transaction.
"""
