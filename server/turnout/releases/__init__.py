"""Releases, tags, yanks and removals: decided, and recorded in the state store."""
