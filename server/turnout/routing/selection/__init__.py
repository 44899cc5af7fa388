"""Selectors: the syntax of the version field, and the resolution to a version."""
