"""Runs versions in child processes, so that a native crash, a hang or running out of memory ends only the child.

`hazards` decides which versions are isolated, `pool` keeps a version's children, `session` sends a request to a child.
"""
