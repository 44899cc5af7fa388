"""Counts request outcomes on the serving path; rollouts decide by these counts."""
