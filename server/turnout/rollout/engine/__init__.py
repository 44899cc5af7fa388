"""The engine that drives rollouts: observe, decide, record, apply.

`RolloutEngine` depends on two ports, `LiveState` (what is served and routed) and `SharedState`, and on a clock.
`LocalServing` and `StoredRollouts` implement the ports for a real server. The rest is private to the package.
"""
