"""gRPC's door: the Open Inference Protocol, TensorFlow Serving's Predict and the health checks, on one port.

A process of its own beside Gunicorn's. Owns what gRPC has of its own: messages, metadata, statuses, and its
server. It translates a message into what web/inference.py is asked, and the results back; of queues, batches
and deadlines it knows nothing. What the protocols have in common with their HTTP is in web/dialects.
"""
