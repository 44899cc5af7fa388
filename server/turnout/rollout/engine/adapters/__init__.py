"""The engine's ports on the real server: what it serves and routes, and its state store."""
