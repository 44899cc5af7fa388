"""The blocking client: `client/unasync.py` says which of these files are generated."""
