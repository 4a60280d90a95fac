"""Middleware: what happens to every request and response, whatever its route.

Owns request ids, CORS and compression. Knows no model and no picture.
"""
