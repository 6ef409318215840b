"""Which backend, which precision: real engines of a trained network, judged and timed, and the name of the fastest."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.bundle import Bundle
from agp_edge.engines import choice as choices
from agp_edge.engines import get_backend, open_engine, read_sidecar, timing
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.choice import Choice, choose_engine, list_candidates
from agp_edge.engines.refusal import refusal_folder
from agp_edge.engines.sidecar import pair_of
from agp_edge.engines.timing import time_in_turns
from agp_edge.errors import GateError, InputError
from agp_edge.frame import Precision

pytest.importorskip("onnxruntime")
# Not `importorskip`: OpenVINO imported by itself sends a message over the network.
if get_backend("openvino").unavailable() is not None:
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

Command = Callable[..., tuple[int, str, str]]
Reseal = Callable[[Path], None]

OPENVINO = [p for p in ("fp32", "fp16", "bf16", "int8") if get_backend("openvino").refuses(p) is None]
EVERYTHING = [*(("onnxruntime", p) for p in ("fp32", "fp16", "int8")), *(("openvino", p) for p in OPENVINO)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rounds: what is tested is which is taken, not how well it is timed."""
    monkeypatch.setattr(timing, "TIMING_SECONDS", 0.05)


@pytest.fixture
def set_times(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`set_times(int8_openvino=1.0)`: these candidates take so many milliseconds, the others 10 and more, by their order."""

    def set_to(**times: float) -> None:
        def medians(drafts: Any, *_: object) -> list[float]:
            keys = [f"{d.sidecar.precision}_{d.sidecar.backend}" for d in drafts]
            return [times.get(key, 10.0 + i) for i, key in enumerate(keys)]

        monkeypatch.setattr(choices, "time_drafts", medians)

    return set_to


def tried(choice: Choice) -> list[tuple[str, Precision]]:
    return [(c.backend, c.precision) for c in choice.candidates]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".bundle"))


def test_every_backend_that_runs_here_is_tried_in_every_precision(bundle_copy: Path) -> None:
    told: list[str] = []
    choice = choose_engine(
        Bundle(bundle_copy), progress=lambda done, total, note="": told.append(note), seed=0
    )
    assert tried(choice) == EVERYTHING
    assert [c.outcome for c in choice.candidates] == ["passed"] * len(EVERYTHING)
    times = [c.median_ms for c in choice.candidates]
    assert all(value is not None and value > 0 for value in times)
    assert choice.chosen is not None
    assert choice.chosen.median_ms == min(value for value in times if value is not None)
    (built,) = choice.built
    assert choice.default == bundle_copy.parent / "part.default.engine"
    assert names(bundle_copy.parent) == sorted(
        [built.path.name, f"{built.path.name}.json", "part.default.engine", "part.default.engine.json"]
    )
    assert read_sidecar(choice.default) == built.sidecar
    for text in ("openvino int8: measuring int8", "timing, ms", "putting it in place", "naming the default"):
        assert any(text in note for note in told), text
    assert any(note.startswith("not tried: tensorrt:") for note in choice.notes)


@pytest.mark.parametrize("fastest", [("onnxruntime", "int8"), ("openvino", "int8"), ("openvino", "fp32")])
def test_the_fastest_is_taken(
    bundle_copy: Path, set_times: Callable[..., None], fastest: tuple[str, Precision]
) -> None:
    set_times(**{f"{fastest[1]}_{fastest[0]}": 1.0})
    choice = choose_engine(Bundle(bundle_copy))
    assert choice.chosen is not None
    assert (choice.chosen.backend, choice.chosen.precision) == fastest
    assert choice.default is not None
    assert choice.default.readlink() == Path(f"part.{fastest[1]}.{fastest[0]}.engine"), "relative"
    session, sidecar = open_engine(choice.default)
    session.close()
    assert (sidecar.backend, sidecar.precision) == fastest


def test_one_precision_or_one_backend_narrows_it_down(bundle_copy: Path) -> None:
    bundle = Bundle(bundle_copy)
    assert tried(choose_engine(bundle, "int8")) == [("onnxruntime", "int8"), ("openvino", "int8")]
    assert tried(choose_engine(bundle, None, "openvino")) == [("openvino", p) for p in OPENVINO]
    named = choose_engine(bundle, "fp32", "openvino")
    assert tried(named) == [("openvino", "fp32")]
    assert (named.default, named.candidates[0].median_ms) == (None, None), "nothing was compared"
    pairs, notes = list_candidates(bundle, "bf16", "auto")
    assert ("onnxruntime", "bf16") not in pairs
    assert "not tried: ONNX Runtime does not build bf16" in notes


def test_every_precision_is_kept_by_its_fastest_backend(
    bundle_copy: Path, set_times: Callable[..., None]
) -> None:
    set_times(fp32_onnxruntime=5.0, fp32_openvino=6.0, int8_onnxruntime=4.0, int8_openvino=3.0)
    choice = choose_engine(Bundle(bundle_copy), every=True)
    kept = {b.sidecar.precision: b.sidecar.backend for b in choice.built}
    assert kept["fp32"] == "onnxruntime"
    assert kept["int8"] == "openvino"
    assert choice.default is not None
    assert pair_of(choice.default).name == "part.int8.openvino.engine"
    assert not (bundle_copy.parent / "part.int8.onnxruntime.engine").exists()
    assert sorted(choice.standing(c) for c in choice.candidates if c.built) == ["default"] + ["kept"] * (
        len(kept) - 1
    )


def test_what_is_refused_is_said_and_the_others_go_on(
    answer_otherwise: Callable[..., None],
    bundle_copy: Path,
    reseal: Reseal,
    set_times: Callable[..., None],
    command: Command,
) -> None:
    answer_otherwise(bundle_copy)
    reseal(bundle_copy)
    set_times(int8_onnxruntime=0.1, int8_openvino=0.1)
    code, out, _ = command("build-engine", bundle_copy)
    assert code == 0
    assert "refused: onnxruntime int8: the gate refuses part.int8.onnxruntime.engine" in out
    rows = [line.split() for line in out.splitlines() if line.startswith(("onnxruntime ", "openvino "))]
    assert [(row[0], row[1]) for row in rows] == EVERYTHING
    assert [row[:2] for row in rows if row[-1] == "default"] == [["onnxruntime", "fp32"]]
    assert {row[-1] for row in rows if row[1] == "int8"} == {"refused"}
    assert out.splitlines()[-1].endswith("part.default.engine -> part.fp32.onnxruntime.engine")
    assert not list(bundle_copy.parent.glob("*.refused")), "nobody asked for these by name"
    assert not list(bundle_copy.parent.glob("part.int8.*"))
    assert read_sidecar(bundle_copy.parent / "part.default.engine").precision != "int8"
    code, out, _ = command("build-engine", bundle_copy, "--all-precisions", "--json", "-")
    assert code == 0
    told = json.loads(out)
    outcomes = {(c["backend"], c["precision"]): c["outcome"] for c in told["candidates"]}
    assert outcomes["onnxruntime", "int8"] == outcomes["openvino", "int8"] == "refused"
    assert outcomes["onnxruntime", "fp32"] == "passed"
    assert "int8" not in {e["precision"] for e in told["engines"]}
    assert refusal_folder(bundle_copy.parent / "part.int8.onnxruntime.engine").is_dir()
    assert told["default"] == str(bundle_copy.parent / "part.default.engine")
    assert [c["chosen"] for c in told["candidates"]].count(True) == 1


def test_where_nothing_passes_nothing_is_named(
    answer_otherwise: Callable[..., None], bundle_copy: Path, reseal: Reseal, command: Command
) -> None:
    before = choose_engine(Bundle(bundle_copy), "fp32")
    assert before.default is not None
    target = before.default.readlink()
    answer_otherwise(bundle_copy)
    reseal(bundle_copy)
    for options in (["--precision", "int8"], ["--precision", "int8", "--json", "-"]):
        code, out, err = command("build-engine", bundle_copy, *options)
        assert code == 3
        assert err.splitlines()[-2].startswith("error: no engine passes: onnxruntime int8: the gate refuses")
        assert "--backend onnxruntime --precision int8" in err.splitlines()[-1]
        assert "refused" in out
    assert before.default.readlink() == target, "the default of before stays"
    assert not list(bundle_copy.parent.glob("part.int8.*"))


def test_a_reason_takes_the_finest_where_nothing_passes(
    bundle_copy: Path, set_times: Callable[..., None]
) -> None:
    """A reason to override a gate is none to take the coarsest."""
    set_times(int8_openvino=0.1)
    with pytest.raises(GateError, match="no engine passes"):
        choose_engine(Bundle(bundle_copy), prove=0.001).check()
    choice = choose_engine(Bundle(bundle_copy), prove=0.001, accept="trial on line 3")
    (built,) = choice.built
    assert (built.sidecar.precision, built.sidecar.accepted) == ("fp32", "trial on line 3")
    assert choice.default is not None
    assert read_sidecar(choice.default).accepted == "trial on line 3"


def test_save_engine_takes_the_winner_and_makes_no_default(
    bundle_copy: Path, tmp_path: Path, set_times: Callable[..., None]
) -> None:
    set_times(int8_onnxruntime=0.1)
    target = tmp_path / "device" / "line3.engine"
    choice = choose_engine(Bundle(bundle_copy), save_engine=target)
    assert choice.default is None
    assert [choice.standing(c) for c in choice.candidates if c.built] == ["chosen"]
    assert names(target.parent) == ["line3.engine", "line3.engine.json"]
    assert read_sidecar(target).precision == "int8"
    assert names(bundle_copy.parent) == []


def test_a_backend_that_cannot_run_here_gives_fp32_and_says_that_nothing_was_compared(
    bundle_copy: Path, command: Command
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    options = ["--backend", "tensorrt-rtx", "--compute-capability", "8.6"]
    code, out, _ = command("build-engine", bundle_copy, *options)
    assert code == 0
    assert "nothing could be compared: " in out
    assert names(bundle_copy.parent) == [
        "part.fp32.tensorrt-rtx.engine",
        "part.fp32.tensorrt-rtx.engine.json",
    ]
    choice = choose_engine(
        Bundle(bundle_copy), None, "tensorrt-rtx", every=True, options=BuildOptions(("8.6",))
    )
    assert [c.outcome for c in choice.candidates] == ["not run"] * 3
    assert choice.default is None


def test_what_no_candidate_can_do_is_the_error_of_the_first(bundle_copy: Path, command: Command) -> None:
    code, out, err = command("build-engine", bundle_copy, "--compute-capability", "8.6")
    assert (code, out) == (2, "")
    assert "takes no --compute-capability" in err
    assert names(bundle_copy.parent) == []
    with pytest.raises(InputError, match="no backend 'gpu'"):
        choose_engine(Bundle(bundle_copy), backend_name="gpu")


def test_without_any_backend_it_says_why(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        InputError, match=r"onnxruntime: .* is not installed; openvino: .* is not installed; tensorrt: "
    ):
        choose_engine(Bundle(bundle_copy))


def test_times_are_taken_in_turns_whose_order_changes() -> None:
    asked: list[tuple[int, int]] = []

    def call(number: int) -> Callable[[NDArray[np.uint8]], object]:
        return lambda frames: asked.append((number, int(frames[0])))

    queries = [np.full(1, i, np.uint8) for i in range(4)]
    times = time_in_turns([call(0), call(1), call(2)], queries, np.random.default_rng(0), seconds=0.05)
    assert times.shape[1] == 3
    assert len(times) == len(asked) // 3 - timing.WARMUP_ROUNDS
    rounds = [asked[start : start + 3] for start in range(0, len(asked), 3)]
    assert all({number for number, _ in turn} == {0, 1, 2} for turn in rounds)
    assert all(len({frame for _, frame in turn}) == 1 for turn in rounds)
    assert len({tuple(number for number, _ in turn) for turn in rounds}) == 6
    assert len(time_in_turns([call(0)], queries, np.random.default_rng(0), seconds=0)) == timing.MIN_ROUNDS
