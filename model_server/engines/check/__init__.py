"""Checks: does an engine compute what its reference computes?

Owns measures, tolerances and the pictures drawn for them. Runs no network itself.
"""
