"""Serving: a worker claims batches of jobs, runs its network on them, and completes them under a lease.

Owns versions, workers, batches and draining. Loads no network and reads no settings: both are handed in.
"""
