"""The programs that are compared: one small file each, run by the environment that has its packages.

Each takes its network from engine.py and its pictures from decode.py, the address and the window from its
environment. They must know nothing of how they are measured.
"""
