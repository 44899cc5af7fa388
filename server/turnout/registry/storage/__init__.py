"""Stores versions on disk: their files, durable writes, and the records beside them."""
