"""Repositories that are only read: exported versions, or a Triton model repository, served where they lie.

`discovery` finds what could be a version, `repository` makes versions of it.
"""
