"""Follows the batch dimension through the graph of a model: does each output row depend on its own input row alone?"""
