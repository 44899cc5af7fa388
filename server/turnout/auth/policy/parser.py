"""Parses and checks the policy file. Each error states its line. Pure.

[[grant]]
identities = ["spiffe://example.org/web/*", "jwt:corp/ann", "group:corp/ml"]
roles = ["predict", "read"]
models = ["fraud-*"]

[[limit]]
name = "batch"
identities = ["token:batch-*"]
requests_per_second = 100
burst = 200
in_flight = 32
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn

from turnout.auth.identity import KINDS
from turnout.auth.policy.policy import AccessPolicy, Grant, Limit
from turnout.auth.roles import AccessRole, AccessScope, patterns
from turnout.errors import ConfigError
from turnout.text.toml import parse_toml

_TABLES = ("grant", "limit")
_GRANT_KEYS = ("identities", "roles", "models")
_LIMIT_KEYS = ("name", "identities", "requests_per_second", "burst", "in_flight")
_MOST_TABLES = 10_000
_MOST_LIMITS = 200
"""Maximum number of limits in a file. Each has its own time series in the metrics."""
_MOST_PATTERNS = 1000
_LONGEST = 2048
_HEADER = re.compile(r"\s*\[\[\s*(\w+)\s*\]\]")
_KEY = re.compile(r"\s*[\"']?([\w-]+)[\"']?\s*[.=]")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_MOST_RATE = 1_000_000
_LEAST_RATE = 1e-6
"""Minimum rate in requests per second, so that the time until the next request can be told to the caller."""


def read_policy(text: str, file: str, share: int = 1) -> AccessPolicy:
    """Parses a policy file, in TOML. Each rate and quota is divided among `share` processes.

    Raises:
        ConfigError: The policy is invalid. The message states the line and the key.
    """
    try:
        document = parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    lines = _LineNumbers.of(text)
    for key in document:
        if key not in _TABLES:
            at = lines.top.get(key) or lines.tables.get((key, 1))
            where = f"{file}, line {at}" if at else file
            raise ConfigError(f"{where}: unknown table {key!r}; expected {_nearest(key, _TABLES)}")
    grants = [_Table(file, lines, "grant", n, one) for n, one in enumerate(_listed(document, "grant", file), 1)]
    limits = [_Table(file, lines, "limit", n, one) for n, one in enumerate(_listed(document, "limit", file), 1)]
    if len(limits) > _MOST_LIMITS:
        raise ConfigError(f"{file}: expected at most {_MOST_LIMITS} tables [[limit]], got {len(limits)}")
    read = AccessPolicy(tuple(map(_grant, grants)), tuple(_limit(one, share) for one in limits))
    seen: set[str] = set()
    for table, limit in zip(limits, read.limits, strict=True):
        if limit.name in seen:
            table.fail("name", f"another limit is called {limit.name!r}")
        seen.add(limit.name)
    return read


@dataclass(frozen=True, slots=True)
class _LineNumbers:
    """Line numbers of keys by table, table number and key; of tables by name and number; and of top-level keys."""

    keys: Mapping[tuple[str, int, str], int]
    tables: Mapping[tuple[str, int], int]
    top: Mapping[str, int]

    @classmethod
    def of(cls, text: str) -> "_LineNumbers":
        keys: dict[tuple[str, int, str], int] = {}
        tables: dict[tuple[str, int], int] = {}
        top: dict[str, int] = {}
        counts: dict[str, int] = {}
        table = ""
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.match(line):
                table = header[1]
                counts[table] = counts.get(table, 0) + 1
                tables[table, counts[table]] = number
            elif line.lstrip().startswith("["):
                table = ""
                top.setdefault(re.split(r"[\s.\]]", line.lstrip(" \t["))[0].strip("\"'"), number)
            elif key := _KEY.match(line):
                if table:
                    keys.setdefault((table, counts[table], key[1]), number)
                else:
                    top.setdefault(key[1], number)
        return cls(keys, tables, top)


@dataclass(frozen=True, slots=True)
class _Table:
    file: str
    lines: _LineNumbers
    name: str
    number: int
    values: Mapping[str, Any]

    @property
    def line(self) -> int:
        return self.lines.tables.get((self.name, self.number)) or self.lines.top.get(self.name, 1)

    def fail(self, key: str, sentence: str) -> NoReturn:
        at = self.lines.keys.get((self.name, self.number, key), self.line)
        raise ConfigError(f"{self.file}, line {at}: {self.name} {self.number}, {key}: {sentence}")

    def check_keys(self, known: Sequence[str]) -> None:
        for key in self.values:
            if key not in known:
                self.fail(key, f"unknown key; expected {_nearest(key, known)}")

    def texts(self, key: str, expected: str, check: Callable[[str], bool]) -> list[str]:
        value = self.values.get(key)
        if value is None:
            self.fail(key, f"missing; expected {expected}")
        if not isinstance(value, list) or not value or len(value) > _MOST_PATTERNS:
            self.fail(key, f"expected a list of 1 to {_MOST_PATTERNS}: {expected}")
        for one in value:
            if not isinstance(one, str) or len(one) > _LONGEST or not check(one):
                self.fail(key, f"expected {expected}, got {str(one)[:80]!r}")
        return value

    def number_of(self, key: str, default: float, least: float, *, whole: bool = False) -> float:
        value = self.values.get(key, default)
        kinds = int if whole else int | float
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= _MOST_RATE:
            what = "a whole number" if whole else "a number"
            self.fail(key, f"expected {what} of {least:g} to {_MOST_RATE}, got {str(value)[:40]!r}")
        return value


def _listed(document: Mapping[str, Any], name: str, file: str) -> list[Mapping[str, Any]]:
    found = document.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ConfigError(f"{file}: expected tables [[{name}]], in double brackets")
    if len(found) > _MOST_TABLES:
        raise ConfigError(f"{file}: expected at most {_MOST_TABLES} tables [[{name}]]")
    return found


def _grant(table: _Table) -> Grant:
    table.check_keys(_GRANT_KEYS)
    identities = _identities(table)
    for one in identities:
        if one.startswith("token:"):
            table.fail("identities", f"{one!r}: a token brings its own roles (turnout token create)")
    roles = table.texts("roles", f"some of {', '.join(AccessRole)}", lambda one: one in set(AccessRole))
    models = table.texts("models", "names of models, in which * stands for any characters", _is_model_pattern)
    scope = AccessScope(frozenset(map(AccessRole, roles)), patterns(models), f"grant {table.number}, line {table.line}")
    return Grant(patterns(identities), scope)


def _limit(table: _Table, share: int) -> Limit:
    table.check_keys(_LIMIT_KEYS)
    name = table.values.get("name", f"limit-{table.number}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        table.fail("name", f"expected up to 32 of a-z, 0-9, _ and -, got {str(name)[:40]!r}")
    rate = table.number_of("requests_per_second", 0, 0)
    if 0 < rate < _LEAST_RATE:
        table.fail("requests_per_second", f"expected 0 (no bound), or at least {_LEAST_RATE:f}, got {rate}")
    burst = table.number_of("burst", max(rate, 1), 1)
    in_flight = int(table.number_of("in_flight", 0, 0, whole=True))
    if "burst" in table.values and not rate:
        table.fail("burst", "expected requests_per_second beside it")
    if not rate and not in_flight:
        table.fail("requests_per_second", "expected this or in_flight: the limit bounds nothing")
    return Limit(
        name, patterns(_identities(table)), rate / share, max(burst / share, 1.0), -(-in_flight // share)
    )  # fmt: skip


def _identities(table: _Table) -> list[str]:
    return table.texts("identities", f"patterns that begin with {', '.join(KINDS)}", _is_identity_pattern)


def _is_identity_pattern(text: str) -> bool:
    if text in ("*", "console", "local", "anonymous"):
        return True
    return text.isprintable() and any(
        text.startswith(kind) and len(text) > len(kind) for kind in KINDS if kind[-1] in ":/"
    )


def _is_model_pattern(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_.*-]{1,128}", text) is not None


def _nearest(key: str, known: Collection[str]) -> str:
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    return near[0] if near else ", ".join(known)
