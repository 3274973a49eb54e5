"""The cases: what is done to a gateway to see whether a claim is kept. ``claims`` lists them."""
