"""In: what a client can ask of the gateway over HTTP, and how a refusal looks.

``connection`` notices a client that leaves and writes to it without waiting, ``generation`` holds the routes that take
slots, ``health``, ``models`` and ``admin`` the rest (FastAPI), ``auth`` the keys, ``problems`` the HTTP status of each
reason.
"""
