"""The Open Inference Protocol, version 2, with the additions of Triton that its clients call.

`service` is the whole of it as a gRPC handler; `inference` runs requests, which `exchange` and `codec` turn into the
data plane's and back; `description` and `repository` answer what clients ask beside that.
"""
