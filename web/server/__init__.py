"""Gunicorn's threaded worker with a reactor in front of its threads.

Owns connections: reading requests, sending answers, closing. Knows no Flask app, no route and no picture;
README.md says why it exists and what of Gunicorn it overrides.
"""
