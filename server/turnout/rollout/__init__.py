"""When routing changes by itself: plans, evidence, the state machine, and the engine that drives rollouts."""
