"""Clients that people use, each a real process in an environment of its own: `make test-clients`."""
