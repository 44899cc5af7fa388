"""What a version must pass before it is committed, one gate a file.

`gate` says what a gate is, `plan` what `gates.toml` may ask of them, `standard` which run and in which order.
"""
