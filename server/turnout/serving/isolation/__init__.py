"""Versions in child processes of their own, so that a native crash, a hang or memory running out ends only the child.

`decision` says which versions need it, `pool` keeps a version's children, and `session` sends one request to one.
"""
