"""Dynamic batching: which requests may share a run, the request queue, and how batches are formed and run."""
