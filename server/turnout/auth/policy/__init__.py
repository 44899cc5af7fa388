"""The policy file: what each identity may do, and how much."""
