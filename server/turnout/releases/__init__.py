"""Releases, tags, yanks and removals of versions: checks them and records them in the state store."""
