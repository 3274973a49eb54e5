"""Open WebUI as a person uses it, in a real browser, in front of a real gateway: `make test-open-webui`."""
