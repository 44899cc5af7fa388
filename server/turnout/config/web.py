"""The tables `[web]` and `[console]`: which host names browsers may use, and the operators' console."""

from pydantic import SecretStr

from turnout.config.sections import Section
from turnout.config.values import FilePath, HostNames, Token


class WebSettings(Section):
    """Protection of the HTTP listener against requests that a browser sends on behalf of other sites.

    Attributes:
        hosts: Host names of the server. A request with another name in its Host header is rejected, because the owner
            of that name could make a browser treat this server as their own site (DNS rebinding). IP addresses and
            localhost are always accepted. If this is empty, a loopback listener accepts only localhost, and other
            listeners accept any name.
    """

    hosts: HostNames = ()


class Console(Section):
    """The console, on the HTTP listener.

    Attributes:
        enabled: Whether to serve the console.
        token: Token for pausing, promoting and aborting rollouts in the console, at least 16 characters. "" makes the
            console read-only, except for callers to whom `[auth]` grants more.
        token_file: Path of a file with the token, instead of `token`.
    """

    enabled: bool = True
    token: Token = SecretStr("")
    token_file: FilePath = ""
