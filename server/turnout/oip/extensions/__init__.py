"""Triton's extensions of the protocol: classification, statistics, repository, shared memory, settings."""
