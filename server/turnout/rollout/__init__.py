"""Automatic rollouts: plans, evidence, the state machine, and the engine that drives rollouts."""
