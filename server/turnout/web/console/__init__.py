"""The console: web pages for operators, read-only unless the user has signed in."""
