"""`python -m clients`: the command for people with a folder of pictures.

Owns nothing but the start.
"""

import sys

from clients.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
