"""`python -m web.keys`: the operator's command for API keys. Owns nothing but the start of it."""

import sys

from web.keys.command import main

if __name__ == "__main__":
    sys.exit(main())
