"""Tests of code of one's own: the process of hooks.py, its messages and its limits."""
