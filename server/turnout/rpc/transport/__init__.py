"""Transports that carry gRPC calls to methods over HTTP/2.

`port` defines the interface between transports and methods. `h2corn` (with the ASGI application in `asgi`) and `grpcio`
implement it.
"""
