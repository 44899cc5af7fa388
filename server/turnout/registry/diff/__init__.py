"""Everything in which one published version differs from another."""
