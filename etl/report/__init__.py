"""The report on the calls of a period: figures read once, then shown as an HTML page or in the terminal.

`reading` fills a Report from the database. `period`, `figures` and `words` are pure. `page` and `drawing`
need the extra `report`; `terminal` does not.
"""
