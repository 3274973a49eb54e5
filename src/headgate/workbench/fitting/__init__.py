"""``headgate simulate --fit RAW``: constants for the simulated engine from what a real one was seen to do.

What was measured is raw results of ``headgate bench`` against the engine. Each is played again in virtual time by the
simulated engine's own scheduler (``play``), and the constants are moved until what comes out is nearest to what was
seen (``search``). So a constant is judged by the figures that people read, throughput, time to first token,
inter-token latency, and not by how well some step could be told from outside.

It runs as a process of its own (``python -m headgate.workbench.fitting``): the command line of the gateway never
imports the simulated engine.
"""
