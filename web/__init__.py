"""The web tier: HTTP and gRPC in front, the broker behind, pictures decoded between.

Imports broker, Flask or gRPC, Pillow and NumPy; never Keras, never an engine, never model_server. What it
knows of models it reads from their cards.
"""
