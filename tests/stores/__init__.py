"""Stores of models, read by their own libraries from servers of their APIs on this machine."""
