"""`turnout top`."""
