"""Tries settings of a version out against each other.

candidates  which settings are tried, in which order        pure
comparison  what windows in turn say, and what to choose    pure
trial       runs a version under two settings in turn
"""
