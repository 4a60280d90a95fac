"""The command `python -m clients`: pictures in, a line for each out, resumable.

Owns the terminal and files. All that it knows of the service it knows from clients/client.py.
"""
