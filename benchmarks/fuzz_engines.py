"""Open thousands of spoilt copies of an engine, and see that each opens or is refused as it should be.

    python -m benchmarks.fuzz_engines part.int8.onnxruntime.engine --mutations 20000 --seed 1

The work is done in processes of their own, a batch each, so that a crash or a hang of a native library is seen, and put down to
the case that it happened in. Exit 0 if every case opened or was refused, 1 if one did anything else; `--keep` has those.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from agp_edge.cli.console import run_command, write_json_result
from agp_edge.engines import open_engine
from agp_edge.engines.sidecar import SUFFIX, read_sidecar, sidecar_path
from agp_edge.errors import AgpEdgeError, ArtefactError, InputError, MissingExtraError
from agp_edge.progress import Progress, silent
from benchmarks.engine_mutations import Case, Original, make_case

BATCH = 500
TIME_LIMIT_S = 30.0
"""Of one case, and of the start of a process: either takes a fraction of a second."""
MEMORY_LIMIT_BYTES = 6 << 30
"""Of a batch's address space: a graph that asks for more gets an error, and not this machine's whole memory."""
LONGEST_LINE = 400
OPENED, REFUSED, BROKE_RULES, FAULT, CRASHED, HUNG = (
    "opened", "refused", "refused against the rules", "fault", "crashed", "hung",
)  # fmt: skip
GOOD = (OPENED, REFUSED)


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        number: of the case.
        kind: what was done to the engine.
        result: one of the names above.
        detail: of a refusal the first words; of all else what happened.
    """

    number: int
    kind: str
    result: str
    detail: str

    @property
    def good(self) -> bool:
        """Whether it may be so."""
        return self.result in GOOD


@dataclass
class Report:
    """All outcomes.

    Attributes:
        seed: of the cases.
        outcomes: in the order in which they came.
    """

    seed: int
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def bad(self) -> list[Outcome]:
        """Those that may not be."""
        return [outcome for outcome in self.outcomes if not outcome.good]

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `--json`."""
        return {
            "benchmark": "fuzz_engines",
            "seed": self.seed,
            "mutations": len(self.outcomes),
            "results": Counter(outcome.result for outcome in self.outcomes),
            "details": {f"{r}: {d}": n for (r, d), n in self._details().most_common()},
            "kinds": Counter(outcome.kind for outcome in self.outcomes),
            "bad": [vars(outcome) for outcome in self.bad],
        }

    def describe(self) -> str:
        """Counts, most first; then the cases that may not be."""
        lines = [f"{n:7} {result}: {detail}" for (result, detail), n in self._details().most_common()]
        results = Counter(outcome.result for outcome in self.outcomes)
        totals = ", ".join(f"{n} {result}" for result, n in results.most_common())
        lines.append(f"{len(self.outcomes)} mutations of seed {self.seed}: {totals}")
        lines += [f"case {o.number} ({o.kind}) {o.result}: {o.detail}" for o in self.bad[:20]]
        return "\n".join(lines)

    def _details(self) -> Counter[tuple[str, str]]:
        return Counter((outcome.result, outcome.detail) for outcome in self.outcomes)


def read_original(engine: Path) -> Original:
    """The engine that is to be spoilt, with foreign files made here.

    Raises:
        InputError, ArtefactError: it is none, or is spoilt already.
    """
    read_sidecar(engine)
    return Original(engine.read_bytes(), sidecar_path(engine).read_bytes(), _foreign_plans())


MAKE_PLAN = """
import sys
import tensorrt_rtx as trt

logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
frames = network.add_input("frames", trt.DataType.FLOAT, (1, 4))
network.mark_output(network.add_identity(frames).get_output(0))
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM86, 0)
open(sys.argv[1], "wb").write(bytes(builder.build_serialized_network(network, config)))
"""


def _foreign_plans() -> dict[str, bytes]:
    """A plan of TensorRT-RTX, where that is installed: made by a process of its own, that none of it stays in this one."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan"
        command = [sys.executable, "-c", MAKE_PLAN, str(plan)]
        made = subprocess.run(command, capture_output=True, check=False, timeout=120)
        return {"a plan of TensorRT-RTX": plan.read_bytes()} if made.returncode == 0 else {}


# --- one case, in the process that may die of it --------------------------------------------------


def write_case(case: Case, folder: Path) -> Path:
    """Write a case as an engine with its sidecar, over the one that was there; give the plan's path."""
    engine = folder / f"spoilt{SUFFIX}"
    engine.write_bytes(case.plan)
    if case.sidecar is None:
        sidecar_path(engine).unlink(missing_ok=True)
    else:
        sidecar_path(engine).write_bytes(case.sidecar)
    return engine


def judge_case(engine: Path) -> tuple[str, str]:
    """Open an engine and score a frame: what became of it, and the detail."""
    try:
        session, sidecar = open_engine(engine)
        with session:
            frame = sidecar.frame
            frames = np.full((1, *frame.shape), 77, np.uint8)
            result = session.infer(frames)
    except AgpEdgeError as error:
        return _judge_error(error, engine)
    except Exception as error:
        return FAULT, f"{type(error).__name__}: {str(error)[:200]}"
    fits = (
        result.score.shape == (1,)
        and result.score.dtype == result.anomaly_map.dtype == np.float32
        and result.anomaly_map.ndim == 3
        and len(result.anomaly_map) == 1
        and result.anomaly_map.size > 0
    )
    if not fits:
        return FAULT, f"gave score {result.score.shape} and map {result.anomaly_map.shape}"
    return OPENED, "and gave a score"


def _judge_error(error: AgpEdgeError, engine: Path) -> tuple[str, str]:
    """Hold an error against the rules of a refusal."""
    # What the message quotes says nothing of its kind.
    text = re.sub(r"\{.*(\}|…)|'[^']*(…|')|\[.*?\]", "*", error.what.replace(str(engine), "ENGINE"))
    words = " ".join(text.split()[:5])
    for line in (error.what, error.hint):
        if not line.strip() or not line.isprintable():
            return BROKE_RULES, f"no line that can be printed: {line[:200]!a}"
        if len(line) > LONGEST_LINE:
            return BROKE_RULES, f"a line of {len(line)} characters: {line[:100]!a}"
    # The path is right always. What is not installed is told as such.
    if error.exit_code != ArtefactError.exit_code and not isinstance(error, MissingExtraError):
        return BROKE_RULES, f"exit code {error.exit_code}: {words}"
    return REFUSED, words


def work(engine: Path, first: int, count: int, seed: int) -> None:
    """Try cases one after the other and tell of each on stdout: a line before, a line after."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    original = Original(engine.read_bytes(), sidecar_path(engine).read_bytes(), _read_foreign(engine.parent))
    channel = os.dup(1)
    with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory() as folder:

        def tell(value: dict[str, Any]) -> None:
            os.write(channel, json.dumps(value).encode() + b"\n")

        # A loader prints nothing, and neither do the libraries below it.
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
        for number in range(first, first + count):
            case = make_case(original, seed, number)
            tell({"begin": number, "kind": case.kind})
            before = os.fstat(said.fileno()).st_size
            result, detail = judge_case(write_case(case, Path(folder)))
            sys.stdout.flush()
            if result in GOOD and os.fstat(said.fileno()).st_size > before:
                said.seek(before)
                result, detail = BROKE_RULES, f"printed {said.read(100)!a}"
                said.seek(0, os.SEEK_END)
            tell({"end": number, "result": result, "detail": detail})


def _read_foreign(folder: Path) -> dict[str, bytes]:
    return {file.stem: file.read_bytes() for file in sorted(folder.glob("*.foreign"))}


# --- all cases, from the process that watches -----------------------------------------------------


def fuzz(
    engine: Path, mutations: int, seed: int, progress: Progress = silent, *, jobs: int = 1, batch: int = BATCH
) -> Report:
    """Try spoilt copies of an engine.

    Args:
        engine: a whole one.
        mutations: how many.
        seed: of the cases.
        progress: told of cases.
        jobs: processes at a time.
        batch: cases a process.

    Raises:
        InputError, ArtefactError: the engine is none, or is spoilt already.
    """
    original = read_original(engine)
    report = Report(seed)
    todo: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for first in range(0, mutations, batch):
        todo.put((first, min(batch, mutations - first)))
    lock = threading.Lock()

    def note(outcome: Outcome) -> None:
        with lock:
            report.outcomes.append(outcome)
            progress(len(report.outcomes), mutations)

    with tempfile.TemporaryDirectory() as folder:
        whole = write_case(Case("", original.plan, original.sidecar), Path(folder))
        for name, data in original.foreign.items():
            (Path(folder) / f"{name}.foreign").write_bytes(data)

        def run_batches() -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    for outcome in run_batch(whole, *todo.get_nowait(), seed):
                        note(outcome)

        threads = [threading.Thread(target=run_batches) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    report.outcomes.sort(key=lambda outcome: outcome.number)
    return report


def run_batch(
    engine: Path, first: int, count: int, seed: int, *, limit_s: float = TIME_LIMIT_S
) -> Iterator[Outcome]:
    """The outcomes of a batch; after a crash or a hang a new process goes on with the next case."""
    at = first
    while at < first + count:
        for outcome in _run_until_death(engine, at, first + count - at, seed, limit_s):
            at = outcome.number + 1
            yield outcome


def worker_command(engine: Path, first: int, count: int, seed: int) -> list[str]:
    """The command of a process that tries cases."""
    command = [sys.executable, "-m", "benchmarks.fuzz_engines", str(engine), "--seed", str(seed)]
    return [*command, "--worker", str(first), str(count)]


def _run_until_death(engine: Path, first: int, count: int, seed: int, limit_s: float) -> Iterator[Outcome]:
    number, kind = first, "before the first case"
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            worker_command(engine, first, count, seed),
            stdout=subprocess.PIPE,
            stderr=said,
            cwd=Path(__file__).parents[1],
        ) as child,
    ):
        assert child.stdout is not None
        lines = _lines(child.stdout)
        try:
            while line := lines.get(timeout=limit_s):
                if "begin" in line:
                    number, kind = line["begin"], line["kind"]
                else:
                    yield Outcome(number, kind, line["result"], line["detail"])
            code = child.wait(limit_s)
        except (queue.Empty, subprocess.TimeoutExpired):
            yield Outcome(number, kind, HUNG, f"no end after {limit_s:g} s")
            return
        finally:
            child.kill()
        if code:
            said.seek(0)
            yield Outcome(number, kind, CRASHED, _describe_death(code, said.read()))


def _lines(stream: IO[bytes]) -> queue.SimpleQueue[Any]:
    """The JSON lines of a stream, as they come; None at its end."""
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(ValueError):
            for line in stream:
                found.put(json.loads(line))
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    return found


def _describe_death(code: int, said: bytes) -> str:
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    last = said.decode(errors="replace").strip().splitlines()[-1:]
    return f"{name} {last[0][:200]!a}" if last else name


def keep_cases(report: Report, engine: Path, folder: Path) -> None:
    """Write the engines of the cases that may not be, each in a folder of its own.

    Raises:
        InputError, ArtefactError: as `read_original`.
    """
    original = read_original(engine)
    for outcome in report.bad:
        place = folder / f"{report.seed}-{outcome.number}"
        place.mkdir(parents=True, exist_ok=True)
        write_case(make_case(original, report.seed, outcome.number), place)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit codes are agp-edge's, and 1 for a case that may not be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_engines", description=__doc__)
    parser.add_argument("engine", type=Path, help="a whole engine, which is left as it is")
    parser.add_argument("--mutations", type=int, default=2000, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (%(default)s)")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="write the engines that did what they may not"
    )
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for stdout")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.worker:
        first, count = chosen.worker
        work(chosen.engine, first, count, chosen.seed)
        return 0

    def run(**_: object) -> int:
        if chosen.mutations < 1 or chosen.jobs < 1:
            raise InputError("nothing to do: --mutations and --jobs start at 1", "give 1 or more")
        report = fuzz(chosen.engine, chosen.mutations, chosen.seed, _every(1000), jobs=chosen.jobs)
        if chosen.keep is not None:
            keep_cases(report, chosen.engine, chosen.keep)
        write_json_result(chosen.json, report.to_dict())
        print(report.describe(), file=sys.stderr if chosen.json == "-" else sys.stdout)
        return 1 if report.bad else 0

    return run_command(run)


def _every(step: int) -> Callable[..., None]:
    def tell(done: int, total: int, note: str = "") -> None:
        if done % step == 0:
            print(f"{done}/{total}", file=sys.stderr, flush=True)

    return tell


if __name__ == "__main__":
    sys.exit(main())
