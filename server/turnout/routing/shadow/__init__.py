"""Shadows: versions that get copies of requests. Their answers are compared with the baseline's and never returned.

    mirror    decides, after an answer was sent, which copies are taken, by a hash of the request
    lane      one shadow's queue: bounded, runs only while no live request waits, drops and counts copies under pressure
    runner    runs copies on threads of the lowest priority, or in a child process
    ledger    records the results of the comparisons

The live path uses only `mirror`, which receives the answers and never raises.
"""
