"""The model server: claims batches, runs the network once for each, completes them.

Imports broker and the standard scientific libraries; never Flask, never Pillow, never web. Keras and
TensorFlow are imported only by sources.py and engines/, when a model is loaded.
"""
