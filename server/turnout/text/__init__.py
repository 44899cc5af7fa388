"""Numbers, shares and TOML documents as text."""
