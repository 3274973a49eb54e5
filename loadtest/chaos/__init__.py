"""Load and faults at once, and the books of both sides compared: what a gateway must keep whatever happens to it.

    python -m loadtest.chaos --requests 20000 --seed 7 --profile short

`plan` says what is done when (pure: a seed gives it again), `asks` what each request is, `clients` are those who ask,
`faults` carries a fault out, `books` compares what the clients saw with what the gateway wrote down, `stage` is the
gateway and its engine as processes, `run` joins them, and `report` says it. `engine` and `gateway` are what these
processes execute.
"""
