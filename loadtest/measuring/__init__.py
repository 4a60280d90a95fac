"""Measuring: judging answers, counting them, and deciding whether a load met its objective.

Owns figures and their statistics. Sends nothing and prints nothing.
"""
