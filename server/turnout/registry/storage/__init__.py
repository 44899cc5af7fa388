"""Versions on the disk: their files, how they get there durably, and what is kept beside them."""
