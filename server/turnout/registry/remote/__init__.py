"""Versions in an object store or an OCI registry, and the cache on disk from which they are loaded."""
