"""Engines: which there are, what each is doing, which one serves next.

Everything here is told what to do by arguments; it reads no settings. Pure decisions have a file each
(``lifecycle``, ``backoff``, ``progress``, ``choose``, ``statement``, ``output``); ``supervisor`` is the one
task that owns one engine; ``pool`` is the face the gateway sees. How a request reaches an engine is the
relay's part.
"""
