"""A simulated engine: a process that speaks vLLM's HTTP and shows vLLM's metrics, with no GPU and no model.

It decides nothing about gating; it is what a gateway is tried against. Its clock, its scheduling and its
memory are pure (``constants``, ``blocks``, ``scheduler``, ``text``: time is an argument), so that what it
does under load is a model that can be read and fitted to a real engine. ``engine`` gives that model real
time, ``routes`` its HTTP, ``faults`` the ways in which it can be made to fail, ``server`` the life of its
process.

The rest of headgate never imports this package, and it imports nothing of the rest: the two meet over a
socket, as the gateway and vLLM do. It is started with ``python -m headgate.simulator --port 8000``.

What it does not do: sampling, tool calls, logprobs, images. Two engines given the same prompt say the same
words.
"""
