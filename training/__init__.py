"""Owns how the networks bundled in models/ were made; nothing that serves imports it."""
