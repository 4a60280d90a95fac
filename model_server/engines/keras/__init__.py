"""Keras: where its networks come from, and the engines that run them on TensorFlow or JAX.

Owns the only imports of keras, tensorflow and jax in a serving process. Knows no queue and no task.
"""
