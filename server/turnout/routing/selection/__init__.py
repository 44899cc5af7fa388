"""Selectors: what a client writes in the version field, and which version that names."""
