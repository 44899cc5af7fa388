"""The tables of `make bench`: each module has a TITLE, and a function that measures the rows."""
