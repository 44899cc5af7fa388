"""The gRPC interface: listeners, the services of `turnout.v1` and the Open Inference Protocol, and status codes."""
