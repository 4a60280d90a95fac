"""Models in a remote store (`MODELS_DIR=s3://...`): brought to a local folder, and followed when they change.

Owns the listing, the download and the local copies. Loads no network and knows no queue: for the rest of the
model server a model is a local folder. Nothing of fsspec is imported where MODELS_DIR is a local directory.
"""
