"""Darknet's networks (https://pjreddie.com/darknet), a .cfg and a .weights file each, as Keras networks.

cfg.py reads the text, network.py makes layers.py's of it, with sizes; weights.py cuts the numbers for them,
and keras_model.py and detections.py build the network: only these two load Keras. Everything is checked
before a number is read, and a refusal names the section and its line.
"""
