"""What carries gRPC calls: a narrow port, and its implementations.

`port` says what a method sees of a call; `h2corn` and `grpcio` carry calls to methods over HTTP/2.
"""
