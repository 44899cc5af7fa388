"""The engine's access to the server's serving state and to its state store."""
