"""Commands that release, yank, tag and roll back versions, and show the log of these changes."""
