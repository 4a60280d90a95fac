"""Dialects: the requests and answers of other services, on top of ours.

Owns their addresses and the shapes of their answers. Pictures become results as in routes/predict.py. app.py
registers it and openapi/ describes it; nothing else of the service imports this package.
"""
