"""The policy file: who may do what, and how much."""
