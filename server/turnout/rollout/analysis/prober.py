"""Runs one probe and interprets its answer. Errors make a measurement inconclusive, and are not raised."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import orjson

from turnout.config import Probe
from turnout.errors import TurnoutError, UnavailableError
from turnout.outbound import HttpAnswer
from turnout.registry.storage.files import read_small
from turnout.rollout.analysis.http import HttpEndpoint
from turnout.rollout.analysis.json_path import value_at
from turnout.rollout.analysis.promql import filled, filled_url, number_in
from turnout.rollout.machine.measurements import LONGEST_DETAIL, ProbeLimits, ProbeOutcome, judged, number_text
from turnout.threads import Threads

_MAX_TOKEN = 16 << 10
_HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class ProbeContext:
    """The rollout that a probe is asked about, which is also the body of a POST request.

    Attributes:
        model, candidate, baseline: Names, for placeholders and bodies.
        attempt: Number of the attempt; 0 if a probe is tried by an operator.
        step, steps: Number of the present step, from 1, and number of steps.
        weight: The candidate's desired share.
        state: State of the rollout; "" if there is none.
    """

    model: str
    candidate: str
    baseline: str
    attempt: int = 0
    step: int = 0
    steps: int = 0
    weight: float = 0.0
    state: str = ""

    @property
    def placeholders(self) -> Mapping[str, str]:
        """Values of the placeholders by name."""
        return {"model": self.model, "candidate": self.candidate, "baseline": self.baseline}


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The result of one measurement.

    Attributes:
        value: Measured value as text; "" if there is none.
        number: Measured value as a number, 1 or 0 for a boolean; None if there is none.
        detail: A sentence that explains the outcome; "" if it passed.
    """

    outcome: ProbeOutcome
    value: str = ""
    number: float | None = None
    detail: str = ""


class Prober:
    """One probe. Used only on the event loop."""

    def __init__(self, name: str, probe: Probe, threads: Threads) -> None:
        """Reads the certificate authorities for the endpoint. Raises the errors of `HttpEndpoint`."""
        self.name = name
        self.probe = probe
        self._threads = threads
        self._endpoint = HttpEndpoint(f"probe.{name}.ca_file", probe.ca_file, probe.timeout_s)

    @property
    def limits(self) -> ProbeLimits:
        """The limits on its measurements in a step."""
        probe = self.probe
        return ProbeLimits(probe.count, probe.failure_limit, probe.consecutive_error_limit)

    async def ask(self, context: ProbeContext) -> ProbeAnswer:
        """Runs one measurement."""
        secrets: list[str] = []
        try:
            headers = await self._headers(secrets)
            return self._read(await self._answer(context, headers))
        except (TurnoutError, LookupError) as error:
            message = error.message if isinstance(error, TurnoutError) else str(error.args[0])
            return ProbeAnswer(ProbeOutcome.INCONCLUSIVE, detail=printable(message, secrets, LONGEST_DETAIL))

    async def close(self) -> None:
        """Closes the connections."""
        await self._endpoint.close()

    async def _answer(self, context: ProbeContext, headers: dict[str, str]) -> HttpAnswer:
        probe = self.probe
        if probe.is_query:
            form = {"query": filled(probe.query, context.placeholders), "timeout": f"{probe.timeout_s:g}s"}
            headers["content-type"] = "application/x-www-form-urlencoded"
            url = probe.url.rstrip("/") + "/api/v1/query"
            return await self._endpoint.ask("POST", url, headers, urlencode(form).encode())
        content = None
        if probe.method == "POST":
            headers["content-type"] = "application/json"
            content = orjson.dumps(context)
        url = filled_url(probe.url, context.placeholders)
        return await self._endpoint.ask(probe.method, url, headers, content)

    def _read(self, answer: HttpAnswer) -> ProbeAnswer:
        probe, fine = self.probe, 200 <= answer.status < 300
        if not fine and not (probe.is_query and answer.status < 500):
            raise UnavailableError(f"it answered {answer.status}")
        try:
            document = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            raise UnavailableError("its answer is not JSON" if fine else f"it answered {answer.status}") from None
        value = number_in(document) if probe.is_query else value_at(document, probe.json_path)
        if isinstance(value, bool):
            if probe.numeric:
                raise LookupError("expected a number, got a boolean")
            return ProbeAnswer(
                ProbeOutcome.PASSED if value else ProbeOutcome.FAILED, str(value).lower(), float(value),
                "" if value else "it answered false",
            )  # fmt: skip
        if not isinstance(value, int | float):
            kind = {str: "text", dict: "an object", list: "a list", type(None): "null"}[type(value)]
            raise LookupError(f"expected a {'number' if probe.numeric else 'boolean'}, got {kind}")
        outcome, detail = judged(float(value), probe.fail_above, probe.fail_below)
        return ProbeAnswer(
            outcome, number_text(value), None if outcome is ProbeOutcome.INCONCLUSIVE else float(value), detail
        )

    async def _headers(self, secrets: list[str]) -> dict[str, str]:
        probe = self.probe
        headers = {name: value.get_secret_value() for name, value in probe.headers.items()}
        token = probe.bearer_token.get_secret_value()
        if probe.bearer_token_file:
            token = await self._threads.run(_token, probe.bearer_token_file)
        secrets += [*headers.values(), *([token] if token else [])]
        return headers | ({"authorization": f"Bearer {token}"} if token else {})


def _token(path: str) -> str:
    try:
        token = read_small(Path(path), _MAX_TOKEN).decode().strip()
    except (OSError, UnicodeDecodeError):
        raise UnavailableError("its bearer_token_file cannot be read") from None
    if not re.fullmatch(r"[!-~]{1,16384}", token):
        raise UnavailableError("its bearer_token_file holds no token of printable ASCII")
    return token


def printable(text: str, secrets: list[str], longest: int) -> str:
    """Formats an external message as one printable line of limited length, without any of the secrets."""
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else line[: longest - 4] + " ..."
