"""`turnout.v1.ControlService`: what operators do to a running server."""
