"""gRPC over ASGI: an application that an HTTP/2 server can run."""
