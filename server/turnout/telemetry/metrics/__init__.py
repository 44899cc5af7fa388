"""Recorders and metric families, by subject."""
