"""Sending: client processes, their connections, and the schedule of requests.

Owns HTTP and the processes that speak it. Judges no answer across requests.
"""
