"""``python -m loadtest.fidelity``: see ``run``."""

from loadtest.fidelity.run import main

main()
