"""Bringing one version into memory."""
