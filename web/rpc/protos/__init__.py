"""The messages: open_inference_grpc.proto as KServe publishes it, and the parts of Triton's and TensorFlow's.

Owns no code: protoc (grpcio-tools, which requirements-dev.txt has) makes the other files, in this folder by
`python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. *.proto`. A test asserts that these are they.
"""
