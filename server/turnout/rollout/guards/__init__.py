"""What rolls a candidate back at once, whatever the evidence: absolute limits and the circuit breaker."""
