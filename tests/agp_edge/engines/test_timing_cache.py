"""Timing caches: of one GPU and version, whole or refused, and one build at a time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from agp_edge.engines.timing_cache import (
    CacheKey,
    default_file,
    load_timing_cache,
    locked,
    read_cache,
    save_timing_cache,
)
from agp_edge.errors import AgpEdgeError, ArtefactError, InputError

ORIN = CacheKey("Orin (nvgpu)", "8.7", "10.3.0")


class Config:
    """What a build's configuration does with a timing cache."""

    def __init__(self, measured: bytes = b"", *, takes: bool = True) -> None:
        self.given: bytes | None = None
        self._takes = takes
        self._measured = measured

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.given = cache
        return self._takes

    def get_timing_cache(self) -> Any:
        return types.SimpleNamespace(serialize=lambda: self._measured)


def given(file: Path, key: CacheKey = ORIN) -> bytes | None:
    config: Any = Config()
    load_timing_cache(config, file, key)
    found: bytes | None = config.given
    return found


def save(file: Path, data: bytes = b"tactics", key: CacheKey = ORIN) -> None:
    config: Any = Config(data)
    save_timing_cache(config, file, key)


def test_what_was_measured_is_given_to_the_next_build(tmp_path: Path) -> None:
    file = tmp_path / "timing"
    assert given(file) == b""
    save(file)
    assert file.read_bytes() == b"tactics", "TensorRT's own bytes, which other tools read"
    assert given(file) == b"tactics"
    save(file, b"more tactics")
    assert given(file) == b"more tactics"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["timing", "timing.json"]


def test_a_file_of_another_tool_is_left_to_tensorrt(tmp_path: Path) -> None:
    (tmp_path / "timing").write_bytes(b"by trtexec")
    assert given(tmp_path / "timing") == b"by trtexec"
    config: Any = Config(takes=False)
    with pytest.raises(ArtefactError, match="is damaged, or of another GPU or version of TensorRT"):
        load_timing_cache(config, tmp_path / "timing", ORIN)


@pytest.mark.parametrize("at", range(7))
def test_damage_is_found_before_tensorrt_sees_it(tmp_path: Path, at: int) -> None:
    file = tmp_path / "timing"
    save(file)
    spoilt = bytearray(file.read_bytes())
    spoilt[at] ^= 1
    file.write_bytes(bytes(spoilt))
    with pytest.raises(ArtefactError, match="is damaged: its hash") as info:
        given(file)
    assert info.value.exit_code == 4
    file.write_bytes(b"tactic")
    with pytest.raises(ArtefactError, match="is damaged"):
        given(file)


@pytest.mark.parametrize(
    "key",
    [
        CacheKey("Orin (nvgpu)", "8.7", "10.3.1"),
        CacheKey("Thor", "8.7", "10.3.0"),
        CacheKey("Orin (nvgpu)", "11.0", "10.3.0"),
    ],
)
def test_one_of_another_gpu_or_version_is_refused(tmp_path: Path, key: CacheKey) -> None:
    save(tmp_path / "timing")
    with pytest.raises(ArtefactError) as info:
        given(tmp_path / "timing", key)
    assert f"is of {ORIN.describe()}, this build of {key.describe()}" in info.value.what


@pytest.mark.parametrize("change", [{"format": "else"}, {"gpu": 7}, {"version": None}])
def test_a_record_that_is_none(tmp_path: Path, change: dict[str, Any]) -> None:
    save(tmp_path / "timing")
    about = tmp_path / "timing.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), **change}))
    with pytest.raises(ArtefactError, match="is no record of a timing cache"):
        given(tmp_path / "timing")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read timing cache"):
        read_cache(tmp_path, ORIN)


def test_the_usual_file_is_named_after_gpu_and_version(cache_home: Path) -> None:
    assert default_file(ORIN) == cache_home / "agp-edge" / "timing" / "Orin-nvgpu-8.7-tensorrt-10.3.0.cache"
    assert len({default_file(CacheKey("Orin", "8.7", version)) for version in ("10.3.0", "10.3.1")}) == 2


HOLD = """
import sys, time
from pathlib import Path
from agp_edge.engines.timing_cache import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_build_waits_for_another_and_no_lock_outlives_its_owner(
    tmp_path: Path, how: signal.Signals
) -> None:
    file = tmp_path / "deep" / "timing"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        told: list[str] = []

        def progress(done: int, total: int, note: str = "") -> None:
            told.append(note)
            other.send_signal(how)

        with locked(file, progress):
            assert told[0] == "waiting for another build that uses timing"
        assert other.wait() == -how


def test_who_waits_can_be_interrupted(tmp_path: Path) -> None:
    def interrupt(done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with (
        locked(tmp_path / "timing"),
        pytest.raises(KeyboardInterrupt),
        locked(tmp_path / "timing", interrupt),
    ):
        pass


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(AgpEdgeError, match="cannot write"), locked(tmp_path / "file" / "timing"):
        pass
