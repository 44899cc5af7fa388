"""Which version answers a request: selectors, a model's policy, sticky slots, shadows and rollback."""
