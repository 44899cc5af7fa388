"""Assembles a server from its components, and controls its startup, reload and shutdown."""
