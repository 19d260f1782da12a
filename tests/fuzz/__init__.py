"""Broken inputs by the thousand: seeded mutations of small real files, configurations, command lines and arguments.

`make fuzz` runs 10,000 of them, `make test` a few of each surface. The rule: a right result, or a sentence (on the
command line with exit code 2), in bounded time and memory; never a traceback, a hang, a silently wrong result, a
half-written file, code run from a file, or a file written elsewhere.
"""
