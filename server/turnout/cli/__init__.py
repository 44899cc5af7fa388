"""The `turnout` command: a module or a package for each group of commands. `main` puts them together."""
