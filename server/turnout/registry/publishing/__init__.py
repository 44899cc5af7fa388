"""Publishing: metadata, the manifest, the gates, the records beside a version, the commit."""
