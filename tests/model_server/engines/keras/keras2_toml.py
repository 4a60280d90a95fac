"""The model.toml of the networks that keras2_exports.py saves, for both processes."""

from typing import Final

TOML: Final = """task = "classification"
labels = "labels.txt"
top = 2
[source]
{source}
[input]
width = 32
height = 32
channels = 3
fit = "stretch"
normalise = "none"
"""
