"""Transfers versions: uploads, fetches, and copies between repositories."""
