"""When routing changes by itself: plans, evidence, the state machine, and the controller that drives them."""
