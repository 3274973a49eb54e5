"""`python -m loadtest.chaos`."""

import sys

from loadtest.chaos.run import main

if __name__ == "__main__":
    sys.exit(main())
