"""Commands for access control: bearer tokens and permissions."""
