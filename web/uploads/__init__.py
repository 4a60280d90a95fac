"""Uploads: from a request's body to pictures in bytes and the parameters sent with them.

Owns form fields, JSON bodies and their bounds. Decodes no picture and knows no queue.
"""
