"""Triton's extensions to the protocol: classification, statistics, model repository, shared memory and settings."""
