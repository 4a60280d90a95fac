"""PyTorch: its files, its libraries' networks, and the engine that runs what OpenVINO can't convert.

Owns the only imports of torch, torchvision, timm and safetensors. They are not part of the default install:
model_server/requirements-torch.txt.
"""
