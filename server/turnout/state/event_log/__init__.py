"""The log of changes: events, the hash chain that links them, and the removal of old events."""
