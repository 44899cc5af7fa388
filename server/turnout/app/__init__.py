"""Puts a server together: its parts, its listeners, its start and its end."""
