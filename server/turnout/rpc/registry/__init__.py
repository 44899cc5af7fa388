"""`turnout.v1.RegistryService`: versions are published and fetched by stream."""
