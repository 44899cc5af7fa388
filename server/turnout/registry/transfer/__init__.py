"""Versions on their way: uploads, fetches, copies between repositories."""
