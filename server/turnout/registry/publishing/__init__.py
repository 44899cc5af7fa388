"""Publishing: what the publisher says, the manifest, the gates, the records beside it, the commit."""
