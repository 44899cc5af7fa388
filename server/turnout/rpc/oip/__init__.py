"""The Open Inference Protocol, version 2, over gRPC, with the Triton extensions that clients use.

`service` assembles the methods. `exchange`, `codec` and `answer` convert inference requests and responses. `methods`
has the remaining methods.
"""
