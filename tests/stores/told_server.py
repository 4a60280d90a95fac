"""`python -m tests.stores.told_server`: tests/e2e/told_server.py, with the packages of stores."""

import runpy

from tests.stores import packages

if __name__ == "__main__":
    packages.add()
    runpy.run_module("tests.e2e.told_server", run_name="__main__")
