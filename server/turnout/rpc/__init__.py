"""gRPC: the listeners, the services of `turnout.v1` and of the Open Inference Protocol, and the status codes."""
