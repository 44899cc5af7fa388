"""OpenSSF model signatures: how they are made, and whose make a version fit to be served."""
