"""Proves from the graph of a model that each output row depends only on the input row at the same position."""
