"""Commands that bring versions into a repository, and sign them."""
