"""OpenSSF model signatures: making them, and deciding which versions they make fit to be served."""
