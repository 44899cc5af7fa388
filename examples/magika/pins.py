"""Scene: one server, one model name, and every way to select a version."""

from rich.table import Table

from magika.features import Guess, best, features_v1, features_v3
from magika.metrics import Scrape
from magika.process import Server, console
from magika.samples import samples
from turnout_client import Client, NotFound

ROUNDS = 5
"""Number of requests for each file, so that the latencies are meaningful."""


def classify(server: Server, names: dict[str, list[str]]) -> int:
    """Classifies every file with every kind of selector. Returns the number of wrong answers."""
    table = Table(title="one server, one model name, four selectors", title_justify="left")
    for heading in ("file", "^1", "^3", "3.2.0", "stable"):
        table.add_column(heading)
    wrong = 0
    answered: dict[str, str] = {}
    with Client(server.grpc) as client:
        for sample in samples():
            cells = []
            for selector in ("^1", "^3", "3.2.0", "stable"):
                features = features_v1(sample.content) if selector == "^1" else features_v3(sample.content)
                for _ in range(ROUNDS):
                    prediction = client.predict("magika", {"bytes": features}, version=selector)
                guess = best(prediction["target_label"][0], names[prediction.version])
                answered[selector] = prediction.version
                wrong += guess.label != sample.expected
                cells.append(_cell(guess, sample.expected))
            table.add_row(sample.name, *cells)
    for column in table.columns[1:]:
        column.header = f"{column.header} -> {answered[str(column.header)]}"
    console.print(table)
    expected = {"^1": "1.0.0", "^3": "3.3.0", "3.2.0": "3.2.0", "stable": "3.2.0"}
    return wrong + sum(answered[selector] != version for selector, version in expected.items())


def refuse(server: Server) -> int:
    """Shows the response to a pin of a version that does not exist. Returns 1 if it was answered, else 0."""
    with Client(server.grpc) as client:
        try:
            client.predict("magika", {"bytes": features_v3(b"x" * 64)}, version="2.0.0")
        except NotFound as error:
            console.print(
                f'[bold cyan]predict("magika", version="2.0.0")[/]  [yellow]{error.code.name}[/] {error.message}'
            )
            return 0
    return 1


def latencies(server: Server, versions: tuple[str, ...]) -> int:
    """Prints the latency of each version from /metrics. Returns the number of versions without requests."""
    seen = Scrape(server.http)
    table = Table(title="latency by version, from /metrics", title_justify="left")
    for heading in ("version", "requests", "p50", "p99"):
        table.add_column(heading, justify="right")
    missing = 0
    for version in versions:
        requests = seen.sum("turnout_requests_total", version=version)
        missing += not requests
        name = "turnout_request_duration_seconds"
        quantiles = [seen.quantile(name, q, version=version) * 1e3 for q in (0.5, 0.99)] if requests else []
        table.add_row(version, f"{requests:.0f}", *(f"{ms:.2f} ms" for ms in quantiles))
    console.print(table)
    return missing


def _cell(guess: Guess, expected: str) -> str:
    colour = "green" if guess.label == expected else "red"
    return f"[{colour}]{guess.label}[/] [dim]{guess.score:.2f}[/]"
