from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import fuzz_engines
from benchmarks.engine_mutations import FOREIGN, Original, make_case, mutate_bytes, mutate_json
from benchmarks.fuzz_engines import CRASHED, HUNG, main, run_batch
from benchmarks.onnx_wire import mutate_fields, parse_model, serialise, walk

ENGINE_OF_NOTHING = Path("none.engine")


def test_a_graph_is_taken_apart_and_put_together(tiny_model: Path) -> None:
    data = tiny_model.read_bytes()
    fields = parse_model(data)
    assert serialise(fields) == data
    assert {message for _, _, message in walk(fields)} >= {"Node", "Tensor", "Dimension", "Attribute"}
    assert parse_model(b"\xff" * 9) == parse_model(data[:-1]) == []


def test_most_mutations_change_something_and_stay_well_formed(tiny_model: Path) -> None:
    data = tiny_model.read_bytes()
    changed = 0
    for number in range(300):
        fields = parse_model(data)
        mutate_fields(fields, random.Random(number))
        out = serialise(fields)
        changed += out != data
    assert changed > 270


def test_every_mutation_is_drawn() -> None:
    rng = random.Random(0)
    data = json.dumps({"a": 1, "b": {"c": [1, 2]}}).encode()
    assert len({mutate_bytes(data, rng)[0] for _ in range(200)}) == 7
    assert len({mutate_json(data, rng)[0] for _ in range(200)}) == 6
    original = Original(b"no graph", b'{"plan_sha256": "0", "x": [1]}')
    kinds = {make_case(original, 0, number).kind.removesuffix(", hash left") for number in range(3000)}
    assert {f"plan: {name}" for name in FOREIGN} <= kinds
    assert "sidecar: missing" in kinds


@pytest.mark.parametrize(
    ("does", "result"),
    [("os.abort()", CRASHED), ("os.kill(os.getpid(), 11)", CRASHED), ("time.sleep(60)", HUNG)],
)
def test_what_dies_or_hangs_is_put_down_to_its_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, result: str
) -> None:
    """A worker that does it in every third case."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, os, sys, time\nfirst, count = int(sys.argv[1]), int(sys.argv[2])\n"
        "for n in range(first, first + count):\n"
        "    print(json.dumps({'begin': n, 'kind': 'k'}), flush=True)\n"
        f"    if n % 3 == 1: {does}\n"
        "    print(json.dumps({'end': n, 'result': 'refused', 'detail': ''}), flush=True)\n"
    )
    monkeypatch.setattr(
        fuzz_engines,
        "worker_command",
        lambda engine, first, count, seed: [sys.executable, str(worker), str(first), str(count)],
    )
    outcomes = list(run_batch(ENGINE_OF_NOTHING, 0, 6, 0, limit_s=1))
    assert [(o.number, o.result) for o in outcomes] == [
        (n, result if n % 3 == 1 else "refused") for n in range(6)
    ]


def test_from_the_command_line(tiny_engine: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.fuzz_engines",
        str(tiny_engine),
        "--mutations",
        "30",
        "--json",
        "-",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["mutations"], told["bad"]) == (30, [])
    assert sum(told["results"].values()) == sum(told["kinds"].values()) == 30
    assert "30 mutations of seed 0" in done.stderr


def test_bad_input_exits_2(tiny_engine: Path, tmp_path: Path) -> None:
    assert main([str(tiny_engine), "--mutations", "0"]) == 2
    assert main([str(tmp_path / "absent.engine")]) == 2
