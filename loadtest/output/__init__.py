"""Output: what a run shows in the terminal, in CSV and in the report page.

Owns presentation. Computes no figure.
"""
