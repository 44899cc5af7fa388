"""`turnout tune`: tries settings of a version."""
