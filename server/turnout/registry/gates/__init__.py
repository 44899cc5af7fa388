"""The gates that a version must pass before it is committed, one file each.

`gate` defines what a gate is, `plan` which options `gates.toml` may set, and `standard` which gates run in which order.
"""
