"""The table `[tls]`: TLS settings for all listeners, with overrides for single listeners."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from turnout.config.sections import Section
from turnout.config.values import Duration, FilePath

ListenerName = Literal["grpc", "http", "control"]
LISTENERS: tuple[ListenerName, ...] = ("grpc", "http", "control")

ClientCertificates = Literal["none", "optional", "required"]

_FILES_AND_MODE = ("cert", "key", "client_ca", "client_certificates")


class ListenerTls(Section):
    """TLS settings of one listener. They default to those of `[tls]`.

    Attributes:
        enabled: Whether to use TLS. If false, the listener uses plain text even if a certificate is set.
        cert: PEM file with the server's certificate, followed by any intermediate certificates; "" for plain text.
        key: PEM file with the unencrypted private key of the certificate. It can be the same file.
        client_ca: PEM file with the authorities that sign clients' certificates.
        client_certificates: `required` rejects clients without a certificate signed by `client_ca`; `optional` asks for
            one but also accepts clients without; `none` does not ask.
    """

    enabled: bool = True
    cert: FilePath = ""
    key: FilePath = ""
    client_ca: FilePath = ""
    client_certificates: ClientCertificates = "none"


class TlsSettings(ListenerTls):
    """TLS on the listeners. If a certificate is set for a listener, it accepts TLS connections only.

    The files are read again when they change. New connections then get the new certificate; existing ones continue.

    Attributes:
        poll_interval_s: How often the files are checked for changes; 0 for never.
        grpc, http, control: Overrides for the listener of that name.
    """

    poll_interval_s: Annotated[Duration, Field(le=3600)] = 1.0
    grpc: ListenerTls = ListenerTls()
    http: ListenerTls = ListenerTls()
    control: ListenerTls = ListenerTls()

    def of(self, listener: ListenerName) -> ListenerTls | None:
        """Returns the effective TLS settings of `listener`; None for plain text."""
        tls = self._merged(listener)
        return tls if tls.enabled and tls.cert else None

    def setting(self, listener: ListenerName, name: str) -> str:
        """Returns the dotted key that sets `name` for `listener`: for example `tls.http.cert`, or `tls.cert`."""
        own = name in getattr(self, listener).model_fields_set
        return f"tls.{listener}.{name}" if own else f"tls.{name}"

    def _merged(self, listener: ListenerName) -> ListenerTls:
        own: ListenerTls = getattr(self, listener)
        given = {name: getattr(own, name) for name in own.model_fields_set}
        merged = {name: getattr(self, name) for name in ListenerTls.model_fields} | given
        return ListenerTls(**merged | {"enabled": self.enabled and own.enabled})

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        for listener in LISTENERS:
            self._check(listener)
        in_force = [tls for listener in LISTENERS if (tls := self.of(listener)) is not None]
        if self.client_ca and in_force and all(tls.client_certificates == "none" for tls in in_force):
            raise ValueError(_unused("tls"))
        return self

    def _check(self, listener: ListenerName) -> None:
        tls, own = self._merged(listener), getattr(self, listener)
        cert, key, client_ca, mode = (self.setting(listener, name) for name in _FILES_AND_MODE)
        if not tls.enabled:
            return
        if not tls.cert:
            # Other TLS settings without a certificate are an error: the user expects TLS and must not get plain text.
            asked = [
                self.setting(listener, name) for name in _FILES_AND_MODE[1:] if getattr(tls, name) not in ("", "none")
            ]
            asked += [f"tls.{listener}.enabled"] if "enabled" in own.model_fields_set else []
            if asked:
                raise ValueError(
                    f"expected {cert} too, since {asked[0]} is set: the file of the server's certificate; "
                    f"for plain text, set tls.{listener}.enabled to false"
                )
            return
        if not tls.key:
            raise ValueError(f"expected {key} too, since {cert} is set: the file of the certificate's private key")
        if tls.client_certificates != "none" and not tls.client_ca:
            raise ValueError(
                f'expected {client_ca} too, since {mode} is "{tls.client_certificates}": '
                "the file of the authorities that sign certificates of clients"
            )
        if own.client_ca and tls.client_certificates == "none":
            raise ValueError(_unused(f"tls.{listener}"))


def _unused(table: str) -> str:
    return (
        f'expected {table}.client_certificates to be "required" or "optional", since {table}.client_ca is set and '
        "no listener asks its clients for a certificate"
    )
