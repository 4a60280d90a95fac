"""`python -m benchmarks.simulation`: what a fleet would do, by a discrete-event simulation of the service.

Owns the model of the path that a picture takes: web tier, Redis, model servers. It judges by the service's
own rules where these are pure, and computes with costs that were measured (costs.json). `run` and `table`
start nothing; `measure` and `check` start the real service.
"""
