"""Decides which version answers a request: selectors, traffic policies, sticky slots, shadows and rollbacks."""
