"""The reference for large messages: a minimal `grpc.aio` handler that returns the bytes of each request.

python benchmarks/harness/echo_server.py      prints its port
"""

import asyncio

import grpc

METHOD = "ModelInfer"


async def echo(message: bytes, _: object) -> bytes:
    return message


async def main() -> None:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=options)
    handlers = {METHOD: grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


asyncio.run(main())
