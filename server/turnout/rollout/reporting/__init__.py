"""Reports on rollouts: log, messages, metrics, webhook."""
