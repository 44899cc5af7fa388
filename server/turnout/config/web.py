"""The tables `[web]` and `[console]`: what browsers are told, and what people may do from one."""

from pydantic import SecretStr

from turnout.config.sections import Section
from turnout.config.values import FilePath, HostNames, Token


class WebSettings(Section):
    """What browsers may do on the HTTP listener.

    Attributes:
        hosts: Host names of the server. A request with another name in its Host header is refused, because the owner of
            that name could make a browser take this server for their site. Addresses and localhost always pass. If it
            is empty, a loopback listener accepts no name but localhost, and other listeners accept any.
    """

    hosts: HostNames = ()


class Console(Section):
    """The console, on the HTTP listener.

    Attributes:
        enabled: Serve the console.
        token: Token with which people may pause, promote and abort in the console, at least 16 characters. "": the
            console is read-only, except for those to whom `[auth]` grants more.
        token_file: A file with the token, instead of the token itself.
    """

    enabled: bool = True
    token: Token = SecretStr("")
    token_file: FilePath = ""
