"""Reports on rollouts: an explanation of the evidence, and a self-contained HTML page."""
