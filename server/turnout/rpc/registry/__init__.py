"""`turnout.v1.RegistryService`: publishes, describes, signs and fetches versions."""
