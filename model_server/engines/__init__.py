"""Engines: what runs a network on a batch of uint8 images."""
