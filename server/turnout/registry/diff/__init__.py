"""Compares two published versions in every respect."""
