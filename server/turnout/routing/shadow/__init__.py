"""Shadows: versions that get copies of requests, whose answers are compared and go to no client.

    mirror    after an answer has left: which copies are taken, by a hash of the request
    lane      one shadow's queue: bounded, only while no live request waits, dropped and counted under pressure
    runner    runs copies on threads of the lowest priority, or in a child process
    ledger    what came of the comparisons

The live path knows of none of this but `mirror`, which it tells of answers, and which never raises.
"""
