"""A model of 2 GiB with its weights outside: it is published in bounded memory."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROWS, WIDTH = 1 << 20, 512
SIZE = ROWS * WIDTH * 4
MIB = 1 << 20

# Publishes as `turnout publish` does, in a process whose children are counted apart, and prints the peaks of both. What
# getrusage tells of the process itself begins with the peak of the test that started it; VmHWM does not.
PUBLISHER = """
import json, re, resource, sys
from pathlib import Path
from typer.testing import CliRunner
from turnout.cli.main import application

done = CliRunner().invoke(application(), ["publish", "large", *sys.argv[1:], "--json"])
own = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"code": done.exit_code, "out": done.stdout, "own": own, "children": children}))
"""


def embedding(directory: Path, rows: int = ROWS) -> Path:
    """Writes y = table[index], of a table of 2 KiB a row: zeros that take no room on the disk."""
    size = rows * WIDTH * 4
    table = numpy_helper.from_array(np.zeros((1, 1), np.float32), "table")
    onnx_models.move_out(table, "table.data", offset=0)
    del table.dims[:]
    table.dims.extend([rows, WIDTH])
    table.external_data[1].value = str(size)
    model = onnx_models.model(
        [helper.make_node("Gather", ["table", "index"], ["y"])],
        [onnx_models.tensor("index", TensorProto.INT64, ["batch"])],
        [onnx_models.tensor("y", TensorProto.FLOAT, ["batch", WIDTH])],
        [table],
    )
    source = onnx_models.save(model, directory / "large.onnx")
    with (directory / "table.data").open("wb") as file:
        file.truncate(size)
    return source


def test_a_model_of_2_gib_is_published_in_a_fraction_of_its_memory(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 2 * SIZE:
        pytest.skip("needs 4 GiB on the disk")
    source = embedding(tmp_path)
    command = [sys.executable, "-c", PUBLISHER, "1.0.0", str(source), "--models", str(tmp_path / "models")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=True)
        output = json.loads(done.stdout)
        assert output["code"] == 0, output
        gates = {gate["gate"]: gate for gate in json.loads(output["out"])["gates"]}
        assert gates["load"]["outcome"] == "passed"
        assert json.loads(output["out"])["size_bytes"] > SIZE
        assert output["own"] < 512 * MIB
        # ONNX Runtime maps the table; what is touched of it is all that counts.
        assert output["children"] < 512 * MIB
    finally:
        shutil.rmtree(tmp_path / "models", ignore_errors=True)


def test_a_terminal_is_shown_how_far_a_large_publish_is(tmp_path: Path) -> None:
    source = embedding(tmp_path, rows=1 << 16)
    command = [sys.executable, "-m", "turnout", "publish", "large", "1.0.0", str(source)]
    terminal, behind = pty.openpty()
    output = b""
    process = subprocess.Popen(
        [*command, "--models", str(tmp_path / "models")],
        stdout=subprocess.DEVNULL, stderr=behind, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(behind)
    try:
        while True:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # Linux's word for the end of a terminal
                break
            if not data:
                break
            output += data
        assert process.wait(timeout=240) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert b"publishing" in output
    assert "━".encode() in output, "a bar"
    assert b"128.0/128.0 MiB" in output, "to the last byte"
