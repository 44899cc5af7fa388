"""gRPC over ASGI."""
