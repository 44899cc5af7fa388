"""Immediate rollbacks regardless of the evidence: absolute limits and the circuit breaker."""
