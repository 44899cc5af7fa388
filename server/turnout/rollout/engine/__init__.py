"""The engine that drives rollouts: observe, decide, record, apply.

`RolloutEngine` depends on the port `LiveState` (what is served and routed), which `LocalServing` implements, on the
state store, and on a clock. The rest is private to the package.
"""
