"""The engine that drives rollouts: observe, decide, record, apply.

`RolloutEngine` stands on two ports, `LiveState` (what is served and routed) and `RolloutStore`, and on a clock that is
handed in. `LocalServing` and `StoredRollouts` are the ports as a server has them. The rest is private to the package.
"""
