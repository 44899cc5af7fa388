"""Immutable versions of models: manifests, checks before publishing, signatures, and the places they are kept in.

Nothing here runs a model. Gates that need one run take a sandbox (`turnout.registry.compatibility.sandbox`).
"""
