"""Commands that release, yank, tag and roll back, and the log of that."""
