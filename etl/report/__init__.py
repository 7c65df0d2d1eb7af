"""The report on the calls of a period: figures that are added up once, then shown as a page or in a terminal.

`figures` and what it is made of are plain values; `drawing` and `page` need the extra `report`.
"""
