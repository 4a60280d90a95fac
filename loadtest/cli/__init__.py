"""The command line of the load tester: options, their bounds, and the program.

Owns what users type and exit statuses. Sends and measures nothing itself.
"""
