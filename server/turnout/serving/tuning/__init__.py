"""Tunes a version: tries settings against each other.

candidates  which settings are tried, and in which order         pure
comparison  evaluates measurements and chooses settings          pure
trial       runs a version under two settings in alternation
"""
