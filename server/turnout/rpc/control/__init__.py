"""`turnout.v1.ControlService`: operators' commands for a running server."""
