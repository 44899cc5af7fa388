"""Implementations of the engine's ports by the server's serving state and its state store."""
