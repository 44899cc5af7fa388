"""The Open Inference Protocol, version 2, with the additions of Triton that its clients call.

`service` puts it together; `exchange` and `codec` convert requests to the data plane's, and its answers back;
`description` and `repository` answer clients' other questions.
"""
