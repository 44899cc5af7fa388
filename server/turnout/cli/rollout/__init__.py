"""Commands that start, observe and control rollouts."""
