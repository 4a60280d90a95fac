"""The catalogue: the models' folders, read and checked.

Owns what `model.toml` and label files may say, and how changes to a folder are noticed. Loads no network.
"""
