"""Loads versions into memory."""
