"""The versions that exist, as a running server tells. Apart from `survey`, since importing gRPC takes 0.15 s."""

from turnout.cli.connection import Server
from turnout.cli.description import Description
from turnout.cli.survey import Details, Survey

_TIMEOUT = 10.0


def survey_server(server: Server) -> Survey:
    """Asks a running server for everything."""
    with server.client(_TIMEOUT) as client:
        models = client.models()
    return Survey(tuple(Description.from_server(model, version) for model in models for version in model.versions))


def details_from_server(server: Server, name: str, selector: str | None) -> Details:
    """Asks a running server for the model `name`.

    Raises:
        ServerRefused: There is no such model or version, or no server answers.
    """
    with server.client(_TIMEOUT) as client:
        model = client.get_model(name)
        wanted = model.default_version if selector is None else client.get_version(name, selector).version
    described = {version.version: Description.from_server(model, version) for version in model.versions}
    return Details(tuple(described.values()), described.get(wanted), None)
