"""Decides what the difference between two versions means for clients, and which version number it requires."""
