"""OpenAPI: the description of the service that `/openapi.json` serves.

Owns the document, its operations and its examples. The types are those that the routes use.
"""
