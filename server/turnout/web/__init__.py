"""The HTTP API: metrics, health checks, predictions, the Open Inference Protocol, the console and rollout reports."""
