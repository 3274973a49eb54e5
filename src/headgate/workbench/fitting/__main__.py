"""``python -m headgate.workbench.fitting``: see ``command``."""

from headgate.workbench.fitting.command import fit

fit(prog_name="headgate simulate --fit")
