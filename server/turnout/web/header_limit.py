"""Bounds what comes before, between and after the bodies of HTTP requests: request lines, headers, trailers.

The parser has no bound of its own: 20 MiB of one Accept header stalled the event loop for 2 s, and a header that never
ended was kept whole.
"""

from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 64 * 1024
"""As many as h11, Python's other parser, takes; what came in one piece with the end of it may be more."""

_STATUS = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
_SENTENCE = f"expected at most {MAX_HEADER_BYTES} bytes of request line and headers\n"
_ANSWER = (
    f"HTTP/1.1 {_STATUS} {_STATUS.phrase}\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
    f"content-length: {len(_SENTENCE)}\r\n\r\n{_SENTENCE}"
).encode()


class BoundedHttpProtocol(HttpToolsProtocol):
    """A connection that is closed once headers or trailers are too long."""

    _bytes = 0
    """Received since the last body, or piece of one."""

    def data_received(self, data: bytes) -> None:
        """Takes what came."""
        self._bytes += len(data)
        super().data_received(data)
        if self._bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_ANSWER)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Hands the request on."""
        self._bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hands a piece of the body on."""
        self._bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends the request."""
        self._bytes = 0
        super().on_message_complete()
