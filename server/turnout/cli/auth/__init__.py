"""Commands of callers: their tokens, and what they may do."""
