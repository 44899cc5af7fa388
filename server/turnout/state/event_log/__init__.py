"""The log of changes: events, the hash chain that ties them, and what may be removed of it."""
