"""What operators do on a running server: commands on rollouts, releases and rollbacks by hand."""
