"""Versions in memory and the requests to them: loading, batching, inference, counting, tuning."""
