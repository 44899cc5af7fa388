"""What servers on one state store tell one another about their rollouts."""
