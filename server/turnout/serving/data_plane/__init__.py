"""The data plane, which answers inference requests of every protocol."""
