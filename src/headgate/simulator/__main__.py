"""``headgate simulate``, as which it is known to who calls it: see ``cli``."""

from headgate.simulator.cli import main

main(prog_name="headgate simulate")
