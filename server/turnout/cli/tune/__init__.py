"""Trying the settings of a version out."""
