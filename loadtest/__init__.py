"""The load tester that `stress_test.py` starts: sends pictures to an HTTP service, checks, measures, reports.

Owns all load code of the project. Must not import anything of the service: it knows HTTP, nothing else.

The words: a *load* is a rate (open loop) or a number of clients (closed loop); a *point* is one load applied
for a time; a *record* is what became of one request; the *ledger* is the file of all records.
"""
