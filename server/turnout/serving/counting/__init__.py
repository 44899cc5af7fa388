"""What requests came to, counted on the serving path for rollouts."""
