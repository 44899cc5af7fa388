"""Publishes versions: metadata, manifest, gates, records beside the version, commit."""
