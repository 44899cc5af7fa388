"""Inputs of models: checked, sampled, made up."""
