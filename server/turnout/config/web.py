"""The tables `[web]` and `[console]`: what browsers are told, and what people may do from one."""

from pydantic import SecretStr

from turnout.config.sections import Section
from turnout.config.values import FilePath, HostNames, Token


class WebSettings(Section):
    """What browsers may do on the HTTP listener.

    Attributes:
        hosts: Names that the server is reached by. A request with another name in its Host header is refused: whoever
            owns that name could have a browser take this server for their site. Addresses and localhost always pass.
            If it is empty: on a loopback listener no name but localhost, elsewhere any.
    """

    hosts: HostNames = ()


class Console(Section):
    """The console, on the HTTP listener.

    Attributes:
        enabled: Whether it is there at all.
        token: Whoever knows it may pause, promote and abort from there; "" leaves it read-only, but for those to whom
            `[auth]` grants more. At least 16 characters.
        token_file: A file with it, instead.
    """

    enabled: bool = True
    token: Token = SecretStr("")
    token_file: FilePath = ""
