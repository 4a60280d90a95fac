"""API keys in the web tier: what one looks like, who a request is, what it may, and how much of it.

Owns the judgement of requests by their keys, for HTTP and gRPC alike. Redis is the broker's: api_keys.py has
the keys, key_limits.py what they have used.
"""
