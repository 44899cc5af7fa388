"""Versions in service: which should be loaded, which are, and the handle that keeps one alive."""
