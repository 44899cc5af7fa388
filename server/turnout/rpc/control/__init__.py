"""`turnout.v1.ControlService`: commands of operators for a running server."""
