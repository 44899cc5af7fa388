"""Simulated rollouts, whose evidence the shipped code evaluates: evidence.py prints their results."""
