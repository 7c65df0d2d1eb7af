"""A stand-in for the PIOPIY API over real HTTP, for the demo, the tests and the benchmarks.

`calls` invents legs, `scenarios` is the table of everything that the API can do with them, and `server` sends
it over sockets. The first two are pure and do not load asyncio.
"""
