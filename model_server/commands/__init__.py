"""Commands: one module for each sub-command of `python -m model_server`.

Owns arguments, output and exit statuses. Offline commands may use pictures/ and Pillow; `serve` must not.
"""
