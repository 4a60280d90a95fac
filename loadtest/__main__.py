"""`python -m loadtest`: the program that `stress_test.py` starts, under the package's own name.

Owns nothing but the start.
"""

import sys

from loadtest.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
