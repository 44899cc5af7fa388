"""Versions in service: which versions should be loaded, which are loaded, and handles that keep them in use."""
