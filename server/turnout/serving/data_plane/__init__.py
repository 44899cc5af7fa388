"""The data plane that every protocol shares."""
