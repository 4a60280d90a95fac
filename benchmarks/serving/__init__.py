"""`make bench`: Batchwire, the pattern that it comes from and four other servers, side by side.

Owns the comparison of servers. No part of the service; nothing here is imported by it.
"""
