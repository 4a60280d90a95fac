"""Checks: whether an engine computes what its reference computes.

Owns measures, tolerances and the images drawn for them. Runs no network itself.
"""
