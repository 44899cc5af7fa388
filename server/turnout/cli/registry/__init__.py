"""Commands that show, compare, verify, export and remove the versions in a repository."""
