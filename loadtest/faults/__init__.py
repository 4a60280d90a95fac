"""Faults: commands of the user's that strike the service during a run, and the account of what followed.

Owns the schedule of strikes, the ledger and the account. Sends no request.
"""
