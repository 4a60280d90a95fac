"""Pictures: an upload's bytes to a model's input, and places in that input back to the upload.

Owns Pillow: nothing else of the project imports it. May import broker's messages and errors; never web, never
model_server. The serving model process imports only geometry.py and refit.py, which need no Pillow.
"""
