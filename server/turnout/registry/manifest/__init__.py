"""The description of a version: manifest, signature, name, number, provenance and digests."""
