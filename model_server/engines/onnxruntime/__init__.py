"""ONNX Runtime: runs ONNX files as they are, on CPUs and on NVIDIA's GPUs.

Owns the only import of onnxruntime. It is not part of the default install:
model_server/requirements-onnxruntime.txt.
"""
