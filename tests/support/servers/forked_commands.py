"""A `turnout` for shells under test, which runs each command in a fork of a process that has imported everything.

It behaves like `turnout`, with the shell's streams, directory, environment and signals, but without the second of CPU
that an interpreter needs for imports. `tests/e2e/cli/test_cli_processes.py` checks for each command that a separate
process does the same.
"""

import atexit
import functools
import marshal
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import turnout.__main__
from processes import forking

_PROGRAM = """#!{python} -IS
import _socket, array, marshal, os, signal, sys
server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
server.connect({address!r})
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, lambda number, _: server.send(bytes([number])))
rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
server.sendmsg([marshal.dumps((sys.argv[1:], os.getcwd(), dict(os.environ)))], [rights])
try:
    ended = server.recv(2)
except ConnectionResetError:  # a signal came after the command had ended
    ended = server.recv(2)
ended = int.from_bytes(ended, "big", signed=True)
if ended < 0:
    signal.signal(-ended, signal.SIG_DFL)
    os.kill(os.getpid(), -ended)
os._exit(ended)
"""

_MOST_BYTES = 1 << 20


@contextmanager
def forked_turnout(directory: Path) -> Iterator[None]:
    """Creates a program `turnout` in `directory`. Commands that still run at the end are killed."""
    # An abstract address, since a socket's path is limited to 108 bytes, and pytest's directories are longer.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        address = f"\0turnout-tests-{os.getpid()}-{directory.name}"
        listener.bind(address)
        listener.listen()
        directory.mkdir()
        program = directory / "turnout"
        program.write_text(_PROGRAM.format(python=sys.executable, address=address))
        program.chmod(0o700)
        server = forking().Process(target=_serve, args=(listener,))
        server.start()
    try:
        yield
    finally:
        server.terminate()
        server.join()
        server.close()


@functools.cache
def turnout_program() -> Path:
    """Returns a program as created by `forked_turnout`. Created on first use, it exists until this process ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    folder = Path(tempfile.mkdtemp(prefix="turnout-program-"))
    stack.callback(shutil.rmtree, folder)
    stack.enter_context(forked_turnout(folder / folder.name))
    return folder / folder.name / "turnout"


def _serve(listener: socket.socket) -> None:
    """Runs commands, each in a fork of this process. Ends with all of them on SIGTERM, or when its parent ends."""
    callers: dict[int, socket.socket] = {}
    parent = os.getppid()

    def end(*_: object) -> None:
        for pid in callers:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    ready = selectors.DefaultSelector()
    ready.register(listener, selectors.EVENT_READ)
    while os.getppid() == parent:
        for key, _ in ready.select(1.0):
            if key.fileobj is listener:
                caller, _address = listener.accept()
                asked, streams, *_rest = socket.recv_fds(caller, _MOST_BYTES, 3)
                if not asked:
                    caller.close()  # it was killed before it asked
                    continue
                # Blocked until the child has its own handlers, since this one's would end all other commands.
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
                pid = os.fork()
                if pid == 0:
                    _run(*marshal.loads(asked), streams)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
                for stream in streams:
                    os.close(stream)
                callers[pid] = caller
                ready.register(caller, selectors.EVENT_READ, pid)
                ready.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
            elif isinstance(key.fileobj, socket.socket):
                if key.fileobj.fileno() == -1:  # its command has ended, as another of these events said
                    continue
                number = key.fileobj.recv(1)
                os.kill(key.data, number[0] if number else signal.SIGKILL)
                if not number:  # the caller was killed
                    ready.unregister(key.fileobj)
            else:
                _, status = os.waitpid(key.data, 0)
                ready.unregister(key.fileobj)
                os.close(key.fd)
                with callers.pop(key.data) as caller:
                    with suppress(KeyError):
                        ready.unregister(caller)
                    with suppress(OSError):
                        caller.send(os.waitstatus_to_exitcode(status).to_bytes(2, "big", signed=True))
    end()


def _run(arguments: Sequence[str], directory: str, environment: Mapping[str, str], streams: Sequence[int]) -> None:
    """Runs a command as its interpreter would, and ends the process."""
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["turnout", *arguments]
        turnout.__main__.main()
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - like an interpreter
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
