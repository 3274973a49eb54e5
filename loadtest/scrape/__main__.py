"""`python -m loadtest.scrape`: see `run`."""

import sys

from loadtest.scrape.run import main

sys.exit(main())
