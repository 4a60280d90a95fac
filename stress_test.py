"""Load tester: sends pictures to an HTTP service, checks every answer, says how fast it was.

Owns nothing but the start of the package `loadtest`, which imports nothing of the service.
"""

import sys

from loadtest.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
