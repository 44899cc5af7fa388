"""Commands for callers: their tokens, and what they may do."""
