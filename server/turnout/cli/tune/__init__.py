"""`turnout tune`: measures settings of a version."""
