"""Presents a rollout's evidence: in words, in numbers, and as a page."""
