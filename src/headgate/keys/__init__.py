"""Keys of many callers: what each may do, kept in one file that holds only their hashes.

``records`` is what a key is and how the file says it; ``edit`` changes the file's text; ``store`` reads and writes
it; ``book`` is the file as the gateway knows it, looked at anew each second; ``command`` is ``headgate keys``. Who is
calling is decided in ``api.auth``.
"""

from headgate.keys.records import Key, KeysError, Role

__all__ = ["Key", "KeysError", "Role"]
