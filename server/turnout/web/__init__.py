"""HTTP: metrics, health checks, predictions as JSON, the Open Inference Protocol, the console, a rollout's report."""
