"""Commands that show, compare, check, export and remove what is in a repository."""
