"""Publishing by several processes at once, and by processes that die or run out of room in the middle."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from semver import Version

import onnx_models
from turnout.errors import NotFoundError
from turnout.registry.publishing.publish import PublishRequest, publish
from turnout.registry.storage.repository import Repository

pytestmark = pytest.mark.slow

V1 = Version(1)

# Publishes m 1.0.0 and stops at the place named: in the middle of the copy, in a gate, or with all written and the
# rename ahead. It says so in a line, and goes on when it is given one.
PUBLISHER = """
import sys
from pathlib import Path
from semver import Version
from turnout.errors import TurnoutError
from turnout.registry.publishing import commit, publish as publishing
from turnout.registry.gates.gate import GateOutcome, GateVerdict
from turnout.registry.storage.repository import Repository

root, source, place = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def stop():
    print("stopped", flush=True)
    sys.stdin.readline()

class Gate:
    name = "stop"

    def run(self, candidate):
        if place == "gate":
            stop()
        return GateVerdict(GateOutcome.PASSED, "")

blocks = []

def progress(size):
    blocks.append(size)
    if place == "copy" and len(blocks) == 2:
        stop()

asked = []

def yanked():
    asked.append(1)
    if place == "commit" and len(asked) == 2:
        stop()
    return ()

request = publishing.PublishRequest("m", Version(1), source)
try:
    result = publishing.publish(Repository(root), request, gates=[Gate()], yanked=yanked, progress=progress)
except TurnoutError as error:
    print(type(error).__name__, flush=True)
else:
    print("created" if result.created else "existed", flush=True)
"""


@contextmanager
def publisher(root: Path, source: Path, place: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", PUBLISHER, str(root), str(source), place]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def message(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def staging(root: Path) -> list[str]:
    return [name for name in os.listdir(root / ".staging") if name != ".lock"]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model of three blocks, so that a copy has a middle."""
    return onnx_models.save(onnx_models.matmul(800), tmp_path / "big.onnx")


@pytest.mark.parametrize("place", ["copy", "gate", "commit"])
def test_a_publish_that_is_killed_leaves_no_version_and_nothing_that_the_next_one_does_not_take(
    repository, source, place
):
    with publisher(repository.root, source, place) as process:
        assert message(process) == "stopped"
        assert repository.scan().published == ()
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
    listing = repository.scan()
    assert (listing.published, listing.problems) == ((), ())
    with pytest.raises(NotFoundError):
        repository.find("m", V1)
    (left,) = staging(repository.root)
    if place == "gate":
        assert repository.sweep() == (left,)
    assert publish(repository, PublishRequest("m", V1, source)).created, "the dead publisher's lock is gone with it"
    assert staging(repository.root) == []
    repository.verify("m", V1)


def test_a_stopped_publish_is_never_swept_and_ends_well(repository, source):
    with publisher(repository.root, source, "gate") as process:
        assert message(process) == "stopped"
        os.kill(process.pid, signal.SIGSTOP)
        assert repository.sweep() == ()
        os.kill(process.pid, signal.SIGCONT)
        go_on(process)
        assert message(process) == "created"
    repository.verify("m", V1)
    assert staging(repository.root) == []


def test_two_processes_that_publish_other_content_under_one_version_make_exactly_one(repository, tmp_path):
    sources = [onnx_models.save(onnx_models.matmul(800, seed=seed), tmp_path / f"{seed}.onnx") for seed in (0, 1)]
    with publisher(repository.root, sources[0], "gate") as one, publisher(repository.root, sources[1], "gate") as other:
        assert [message(one), message(other)] == ["stopped", "stopped"]
        go_on(one)
        go_on(other)
        outcomes = [message(one), message(other)]
    assert sorted(outcomes) == ["AlreadyExistsError", "created"]
    winner = sources[outcomes.index("created")]
    repository.verify("m", V1)
    assert (repository.directory("m", V1) / "model.onnx").read_bytes() == winner.read_bytes()
    assert staging(repository.root) == []


def test_two_processes_that_publish_the_same_content_both_succeed(repository, source):
    with publisher(repository.root, source, "gate") as one, publisher(repository.root, source, "gate") as other:
        assert [message(one), message(other)] == ["stopped", "stopped"]
        go_on(one)
        go_on(other)
        assert sorted([message(one), message(other)]) == ["created", "existed"]
    repository.verify("m", V1)


def test_a_version_appears_whole_to_a_reader_that_never_stops_looking(repository, source):
    with publisher(repository.root, source, "copy") as process:
        assert message(process) == "stopped"
        go_on(process)
        while not (listing := repository.scan()).published:
            assert listing.problems == ()
            assert process.poll() is None or repository.published()
        repository.verify("m", V1)
        assert message(process) == "created"


def test_a_repository_without_room_keeps_nothing_of_the_version(repository, source):
    # A bound on the size of files stands in for a full disk: both end a write in its middle.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    command = [sys.executable, "-c", limit + PUBLISHER, str(repository.root), str(source), "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "Exhausted"
    assert repository.scan().published == ()
    assert staging(repository.root) == []
    assert publish(repository, PublishRequest("m", V1, source)).created


def test_a_repository_that_may_not_be_written_to_is_read_and_left_as_it_is(repository, source):
    publish(repository, PublishRequest("m", V1, source))
    stale = repository.root / ".staging" / ("0" * 32)
    stale.mkdir()
    closed = repository.root / "closed"
    closed.mkdir()
    for path, mode in ((stale.parent, 0o555), (stale.parent / ".lock", 0o444), (closed, 0)):
        path.chmod(mode)
    # Root may write anywhere; from inside the directory, no parent's rights matter to whom it becomes.
    reader = (
        "import os; from pathlib import Path; from semver import Version\n"
        "from turnout.registry.storage.repository import Repository\n"
        "repository = Repository(Path('.'))\n"
        "repository.verify('m', Version(1))  # has Python import what it may not be able to later\n"
        "os.geteuid() or os.setresuid(65534, 65534, 65534)\n"
        "repository.verify('m', Version(1))\n"
        "listing = repository.scan()\n"
        "print(len(listing.published), repository.sweep(), *listing.problems)"
    )
    command = [sys.executable, "-c", reader]
    done = subprocess.run(command, cwd=repository.root, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1 () the directory of closed cannot be read (Permission denied)", done.stderr
    assert stale.exists()
