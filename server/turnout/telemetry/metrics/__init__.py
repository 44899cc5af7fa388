"""Recorders and metric families, one module per subject."""
