"""Clients of other servers, against the running service."""
