"""Routes: one module for each family of addresses, with its blueprint.

Owns what a request to an address does. Jobs go through web.jobs; web.uploads reads bodies.
"""
