"""Converts a listener's identity to grpcio credentials."""

import grpc

from turnout.errors import ConfigError
from turnout.tls.identity import IdentitySource, ServerIdentity


def server_credentials(identity: IdentitySource) -> grpc.ServerCredentials:
    """Returns credentials that follow changes of `identity`. grpcio calls it at each handshake, in a separate thread.

    Raises:
        ConfigError: The identity makes client certificates optional, which grpcio does not support.
    """
    used = identity()
    if used.client_certificates == "optional":
        raise ConfigError(
            'the grpcio transport cannot ask for optional client certificates: set "required" or "none" for it'
        )

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        now = identity()
        if now is used:
            return None
        used = now
        return _configuration(now)

    required = used.client_certificates == "required"
    return grpc.dynamic_ssl_server_credentials(
        _configuration(used),
        changed,  # type: ignore[arg-type] # types-grpcio lacks None, which means no change
        require_client_authentication=required,
    )


def _configuration(identity: ServerIdentity) -> grpc.ServerCertificateConfiguration:
    pair = (identity.key, identity.certificate)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=identity.client_ca or None)
