"""Inputs of models: validation, samples and synthetic values."""
