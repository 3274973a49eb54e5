"""Out: the way to the engine and back.

``upstream`` opens and reuses the engine's connections, ``sse`` cuts a stream into events, ``usage`` reads and writes
what the events say of tokens, ``reply`` carries one answer from the engine to the client and says how it ended.
"""
