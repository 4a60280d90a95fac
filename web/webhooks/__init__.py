"""Webhooks: the end of a job is announced to its client by a signed POST.

Owns which URLs may be called, how a call is signed and made, and the threads that make them. What is to be
announced is broker/webhooks.py's.
"""
