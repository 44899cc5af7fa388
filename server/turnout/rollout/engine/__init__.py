"""The engine that drives rollouts: observe, decide, record, apply.

`RolloutEngine` is the entry point. `LocalServing` is what this server serves and routes. The rest is private to the
package.
"""
