"""Commands that run a server, inspect one, or send it a request."""
