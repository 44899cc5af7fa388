"""A rollout's evidence, told to people: in words, in numbers, and as a page."""
