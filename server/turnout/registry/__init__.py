"""Immutable versions of models: manifests, gates before publishing, signatures, and storage.

Nothing in this package runs a model. Gates that need to run one take a sandbox
(`turnout.registry.compatibility.sandbox`).
"""
