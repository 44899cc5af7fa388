"""HTTP: metrics, health checks, JSON predictions, the Open Inference Protocol, the console, and rollout reports."""
