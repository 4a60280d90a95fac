"""`make serve`: Redis, model servers and web on this machine, from one foreground command.

Owns how supervisor starts, restarts and stops the processes, and what the terminal says about them. Imports
neither web nor model_server: it starts them.
"""
