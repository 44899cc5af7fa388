"""The Open Inference Protocol, version 2, with the additions of Triton that its clients call.

`service` is the whole of it; `exchange` and `codec` turn requests into the data plane's, and its answers back;
`description` and `repository` answer what clients ask beside that.
"""
