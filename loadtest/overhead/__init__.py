"""What a gateway costs: CPU per streamed event and per whole request, and the delay it adds.

In the order of a run:

- `run` is the command: rounds interleaved over the targets, one raw JSON file at the end.
- `phases` says which loads a round is made of, and how large they are.
- `targets` says how each gateway is started and configured.
- `upstream` is the fake engine behind every target, `client` the load in front of it; both are processes of
  their own, and `wire` is what the two agree on.
- `processes` starts, pins, meters and stops all of them.
- `report` and `bars` read raw files, and nothing else.
"""
