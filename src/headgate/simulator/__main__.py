"""``python -m headgate.simulator``: see ``cli``."""

from headgate.simulator.cli import main

main(prog_name="python -m headgate.simulator")
