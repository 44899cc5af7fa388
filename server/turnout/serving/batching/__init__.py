"""Which requests may share a run, the queue that they wait in, and the batches that they run in."""
