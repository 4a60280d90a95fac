"""Routes: one module a family of addresses, each with its blueprint.

Owns what a request to an address does. Jobs go through web.jobs; bodies are read by web.uploads.
"""
