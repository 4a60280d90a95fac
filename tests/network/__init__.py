"""The service on several hosts, each a network namespace of its own."""
