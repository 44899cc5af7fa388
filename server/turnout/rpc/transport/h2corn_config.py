"""The limits of connections in the settings, as h2corn's configuration."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h2corn

from turnout.config import Settings
from turnout.host.cpu import usable_cores
from turnout.tls.identity import ServerIdentity

CUT_SECONDS = 1.0
"""Time in seconds that calls which were ended have to send their responses before their connections are cut."""

_RETIRED_SECONDS = 30 * 86400.0
"""Time in seconds that h2corn gives the calls of a generation that was replaced because of new certificates. h2corn
requires this value when the generation starts. `stop` ends the calls earlier if necessary."""

_WINDOW_BYTES = 4 << 20
"""HTTP/2 window size in bytes: the unread data that a connection may hold. Sufficient for 1 Gbit/s at 30 ms latency."""

_BACKLOG_STALLS = 10
"""Ratio of the write timeout to the stall timeout. The write timeout limits how long a client may have unread data,
regardless of progress, and a slow client that fetches one large response after another always has unread data."""

_LATER_RATIO = 1.25
_LATER_SECONDS = 1.0
"""By how much later than permitted h2corn ends a unary call that pauses. Within a message, the call itself should be
first, since it sends a status; h2corn resets the stream, which clients see as CANCELLED."""

_CORES_FOR_TWO_THREADS = 4
"""Number of cores below which h2corn uses one thread instead of its default of two. On two cores with 16 requests in
flight, the second thread competes with the event loop and the client: using one thread raised the throughput from 8,300
to 10,400 requests per second, and lowered the p99 latency from 8.2 to 6.3 ms."""

_IN_MEMORY = Path("in memory")


def h2corn_config(
    descriptor: int, settings: Settings, identity: ServerIdentity | None, unary_paths: Sequence[str]
) -> h2corn.Config:
    """Returns the configuration of one h2corn server.

    h2corn takes the contents of certificate and key with the server. The clients of `unary_paths` send a single
    message, and so have no reason to pause.
    """
    limits, header_bytes = settings.limits, int(settings.limits.max_header_bytes)
    return h2corn.Config(
        bind=(f"fd://{descriptor}",),
        grpc=True,
        lifespan="off",
        access_log=False,
        log_format="json",
        runtime_threads=_runtime_threads(),
        max_concurrent_streams=limits.max_streams,
        limit_request_head_size=header_bytes,
        limit_request_line=header_bytes,
        limit_request_field_size=header_bytes,
        limit_request_fields=limits.max_headers,
        h2_max_header_list_size=header_bytes,
        h2_max_header_block_size=header_bytes,
        h2_initial_stream_window_size=_WINDOW_BYTES,
        h2_initial_connection_window_size=_WINDOW_BYTES,
        max_request_body_size=0,  # the application limits bodies, with a helpful error message
        timeout_request_body_idle=limits.body_timeout_s,
        request_policies=tuple(
            _request_policy(path, limits.body_timeout_s, limits.stall_timeout_s) for path in unary_paths
        ),
        limit_connections=limits.max_connections,
        timeout_handshake=limits.header_timeout_s,
        timeout_request_header=limits.header_timeout_s,
        timeout_keep_alive=limits.idle_timeout_s,
        timeout_graceful_shutdown=settings.drain.timeout_s + CUT_SECONDS if identity is None else _RETIRED_SECONDS,
        h2_timeout_response_stall=limits.stall_timeout_s,
        h2_timeout_write=limits.stall_timeout_s * _BACKLOG_STALLS,
        **_tls_options(identity),
    )


@functools.cache
def _runtime_threads() -> int:
    return 2 if usable_cores() >= _CORES_FOR_TWO_THREADS else 1


@functools.cache
def _request_policy(path: str, body_seconds: float, stall_seconds: float) -> h2corn.RequestPolicy:
    if body_seconds:
        body_seconds = body_seconds * _LATER_RATIO + _LATER_SECONDS
    return h2corn.RequestPolicy(
        path=path,
        max_request_body_size=0,
        timeout_request_body_idle=body_seconds,
        h2_timeout_response_stall=stall_seconds,
    )


def _tls_options(identity: ServerIdentity | None) -> Mapping[str, Any]:
    """Returns h2corn's TLS settings. The file names are placeholders: the contents are passed as TlsMaterial."""
    if identity is None:
        return {}
    options: dict[str, Any] = {"certfile": _IN_MEMORY, "keyfile": _IN_MEMORY}
    if identity.client_certificates != "none":
        options |= {"ca_certs": _IN_MEMORY, "cert_reqs": identity.client_certificates}
    return options
