"""The blocking client, mostly generated from `_async`; `client/unasync.py` lists the generated files."""
