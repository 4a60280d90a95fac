"""Darknet's networks (https://pjreddie.com/darknet), a .cfg and a .weights file each, as Keras networks.

cfg.py reads the text; network.py turns it into the layers of layers.py, with sizes; weights.py reads their
parameters; keras_model.py and detections.py build the network, and only these two load Keras. Everything is
checked before a parameter is read, and a refusal names the section and its line.
"""
