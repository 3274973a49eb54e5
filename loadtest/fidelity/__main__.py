"""``python -m loadtest.fidelity``: see ``run``."""

import sys

from loadtest.fidelity.run import main

sys.exit(main())
