"""`python -m loadtest.overhead`: see `run`."""

import sys

from loadtest.overhead.run import main

sys.exit(main())
