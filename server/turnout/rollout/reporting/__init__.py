"""How others learn of rollouts: log, messages, metrics, webhook."""
