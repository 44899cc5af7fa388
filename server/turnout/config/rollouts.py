"""The tables `[rollout]` and `[probe.NAME]`: how rollouts run, and which external systems they query."""

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from turnout.config.sections import Section
from turnout.config.values import Count, CountOrNone, Duration, FilePath, HeaderName, HeaderValue, Number, http_url

PLACEHOLDERS = ("model", "candidate", "baseline")
"""Placeholders, in braces, that a probe's query and the path and query of its URL can contain."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_BRACED = re.compile(r"(?<!\\p)(?<!\\P)\{([A-Za-z_]\w*)\}")  # not a{2} and \p{Greek}, which are regular expressions
_JSON_PATH = re.compile(r"""\$(?:\.[A-Za-z_][\w-]*|\[\d{1,6}\]|\["[^"\]]+"\])*""")


def _probe_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("expected the name of a probe, lower case: a letter, then letters, digits, _ or -, 63 at most")
    return name


def _http_url(url: str) -> str:
    expected = "expected an HTTP URL, such as http://prometheus:9090"
    if re.search(r"\s", url):
        raise ValueError(expected)
    of_user = "expected a URL without a password; put what proves who you are in headers or bearer_token"
    if "{" in urlsplit(http_url(url, expected, of_user, query=True)).netloc:
        raise ValueError("expected a URL whose host has no placeholder")
    return url


def _webhook_url(url: str) -> str:
    if url and not re.fullmatch(r"https?://\S+", url):
        raise ValueError("expected an HTTP URL, such as https://hooks.example.org/rollouts")
    return url


def _known_placeholders(text: str) -> str:
    for name in _BRACED.findall(text):
        if name not in PLACEHOLDERS:
            near = get_close_matches(name, PLACEHOLDERS, n=1)
            guess = f"did you mean {{{near[0]}}}? " if near else ""
            raise ValueError(f"expected no {{{name}}}; {guess}There are {', '.join(f'{{{p}}}' for p in PLACEHOLDERS)}")
    return text


def _json_path(text: str) -> str:
    if not _JSON_PATH.fullmatch(text):
        raise ValueError('expected the path of a value in JSON, such as $.data.rate or $.results[0]["error rate"]')
    return text


def _table(value: Any) -> Any:
    """Parses a table that is given as a JSON object, as in an environment variable. Other values are kept."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        return value


ProbeName = Annotated[str, AfterValidator(_probe_name)]


class RolloutSettings(Section):
    """How rollouts run.

    Attributes:
        tick_s: Length of a tick: how often counts are evaluated.
        webhook_url: URL to which every event is sent by POST; "" for none.
        webhook_secret: Secret with which requests to `webhook_url` and `confirm_url` are signed, as
            `X-Turnout-Signature: sha256=HMAC(body)`; "" for no signature.
        webhook_format: `plain` sends the event itself; `cloudevents` wraps it in a CloudEvent 1.0 (structured JSON).
        webhook_source: `source` of the CloudEvents: a URI reference that identifies these servers.
        webhook_secret_file: Path of a file with the secret, instead of `webhook_secret`.
        confirm_url: URL to which a POST request is sent before each step of every rollout and before promotion; "" for
            none. A 2xx status lets the rollout continue, 4xx holds it.
        confirm_timeout_s: Time limit of a request to `confirm_url`.
        confirm_ca_file: PEM file with the authorities to trust for `confirm_url`; "" for the system's.
    """

    tick_s: Annotated[Duration, Field(ge=0.05, le=60)] = 5.0
    webhook_url: Annotated[str, AfterValidator(_webhook_url), Field(repr=False)] = ""  # such URLs are often secrets
    webhook_secret: SecretStr = SecretStr("")
    webhook_format: Literal["plain", "cloudevents"] = "plain"
    webhook_source: Annotated[str, Field(pattern=r"^[!-~]{1,200}$")] = "/turnout"
    webhook_secret_file: FilePath = ""
    confirm_url: Annotated[str, AfterValidator(lambda url: _http_url(url) if url else ""), Field(repr=False)] = ""
    confirm_timeout_s: Annotated[Duration, Field(ge=0.1, le=60)] = 10.0
    confirm_ca_file: FilePath = ""


class Probe(Section):
    """An external measurement that rollout plans can use: a Prometheus query or an HTTP endpoint.

    Only the server that runs a rollout takes measurements: while a step's weight is in force, and while a candidate is
    watched after its promotion.

    Attributes:
        url: With `query`, the address of a Prometheus server, such as http://prometheus:9090. Otherwise the URL of an
            HTTP endpoint, which can have {model}, {candidate} and {baseline} in its path or query.
        query: PromQL that returns one number. It can contain {model}, {candidate} and {baseline}. "" for an HTTP
            endpoint.
        method: HTTP method for an HTTP endpoint. `POST` sends the rollout as JSON.
        json_path: Path of a number or boolean in an HTTP endpoint's JSON response, such as `$.data.rate`. The boolean
            true passes.
        fail_above: The measurement fails if the number is above this.
        fail_below: The measurement fails if the number is below this.
        initial_delay_s: Time from the start of a step to the first measurement.
        interval_s: Time between measurements.
        timeout_s: Time limit of one measurement.
        count: Number of measurements that must pass before a step can end.
        failure_limit: Number of measurements that may fail in a step. One more rolls the candidate back.
        consecutive_error_limit: Number of consecutive measurements that may be inconclusive. After one more, earlier
            measurements no longer count.
        headers: Headers to send with each request.
        bearer_token: Token that is sent as `Authorization: Bearer`; "" for none.
        bearer_token_file: Path of a file with the bearer token, which is read for each measurement.
        ca_file: PEM file with the authorities to trust for the endpoint; "" for the system's.
    """

    url: Annotated[str, Field(max_length=4096), AfterValidator(_http_url), AfterValidator(_known_placeholders)]
    query: Annotated[str, Field(max_length=16384), AfterValidator(_known_placeholders)] = ""
    method: Literal["GET", "POST"] = "GET"
    json_path: Annotated[str, Field(max_length=1024), AfterValidator(_json_path)] = "$"
    fail_above: Number | None = None
    fail_below: Number | None = None
    initial_delay_s: Annotated[Duration, Field(le=86_400)] = 0.0
    interval_s: Annotated[Duration, Field(ge=0.1, le=86_400)] = 30.0
    timeout_s: Annotated[Duration, Field(ge=0.1, le=60)] = 5.0
    count: Count = 1
    failure_limit: CountOrNone = 2
    consecutive_error_limit: CountOrNone = 4
    headers: Annotated[Mapping[HeaderName, HeaderValue], BeforeValidator(_table)] = Field(default_factory=dict)
    bearer_token: SecretStr = SecretStr("")
    bearer_token_file: FilePath = ""
    ca_file: FilePath = ""

    @property
    def is_query(self) -> bool:
        """Whether the probe is a Prometheus query."""
        return bool(self.query.strip())

    @property
    def numeric(self) -> bool:
        """Whether the probe compares a number with a threshold."""
        return self.fail_above is not None or self.fail_below is not None

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        above, below = self.fail_above, self.fail_below
        if self.is_query:
            parts = urlsplit(self.url)
            if parts.query or "{" in self.url:
                raise ValueError("expected url to be where the Prometheus is, without a query or placeholders")
            if not self.numeric:
                raise ValueError("expected fail_above or fail_below too, since query makes a number")
            if self.method != "GET" or self.json_path != "$":
                raise ValueError("expected neither method nor json_path, since query is set")
        if above is not None and below is not None and below > above:
            raise ValueError("expected fail_below to be at most fail_above: else every number fails")
        if self.bearer_token.get_secret_value() and self.bearer_token_file:
            raise ValueError("expected bearer_token or bearer_token_file, not both")
        if "authorization" in self.headers and (self.bearer_token.get_secret_value() or self.bearer_token_file):
            raise ValueError("expected headers without authorization, since a bearer token is set")
        return self


Probes = Mapping[ProbeName, Probe]
