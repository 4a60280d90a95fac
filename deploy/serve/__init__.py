"""`make serve`: Redis, model servers and web on this machine, from one foreground command.

Owns the processes' start, restart and end, in the hands of supervisor, and what the terminal says of
them. Imports neither web nor model_server: it starts them.
"""
