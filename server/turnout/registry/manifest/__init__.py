"""What a version is: its manifest, signature, name, number, provenance and digests."""
