"""The `turnout` command: a module or a package for each group of commands; `main` assembles them."""
