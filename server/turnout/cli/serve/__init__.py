"""Commands that run a server, look after one, or send it a request."""
