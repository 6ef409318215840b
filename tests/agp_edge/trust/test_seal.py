"""Engines under a policy: built here, from a bundle whose signer is accepted, and untouched since."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from agp_edge.bundle import Bundle
from agp_edge.engines import open_engine, read_sidecar
from agp_edge.engines.builder import build_engine
from agp_edge.engines.sidecar import sidecar_path
from agp_edge.errors import ArtefactError, InputError
from agp_edge.files import sha256_file
from agp_edge.signing import sign_bundle
from agp_edge.trust import check_engine
from agp_edge.trust.seal import make_device_key, read_device_key

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def engine(signed: Path, policy: Path) -> Path:
    """Built under `policy` from `signed`."""
    return build_engine(Bundle(signed), "fp32", "onnxruntime").path


def change_sidecar(engine: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = sidecar_path(engine)
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def flip_plan(engine: Path) -> None:
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(data)


def flip_plan_and_follow(engine: Path) -> None:
    flip_plan(engine)
    change_sidecar(engine, lambda value: value.update(plan_sha256=sha256_file(engine)))


def sidecar(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda engine: change_sidecar(engine, change)


def other_signer(value: dict[str, Any]) -> None:
    value["seal"]["signer"]["fingerprint"] = "0" * 64


TOUCHED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the plan": (flip_plan, "its hash is not its sidecar's"),
    "a bit of the plan, sidecar brought in line": (flip_plan_and_follow, "its seal does not fit"),
    "the threshold's scores": (sidecar(lambda v: v.update(normal_scores=[1e6])), "its seal does not fit"),
    "the gate": (sidecar(lambda v: v["gate"].update(outcome="failed")), "its seal does not fit"),
    "the bundle's hash": (sidecar(lambda v: v.update(bundle_sha256="0" * 64)), "its seal does not fit"),
    "the backend": (sidecar(lambda v: v.update(backend="tensorrt")), "its seal does not fit"),
    "the signer": (sidecar(other_signer), "its seal does not fit"),
    "the device": (sidecar(lambda v: v["seal"].update(device="0" * 16)), "was built on another device"),
    "the tag": (sidecar(lambda v: v["seal"].update(tag="0" * 64)), "its seal does not fit"),
    "no text for a tag": (sidecar(lambda v: v["seal"].update(tag=None)), "its seal is none"),
    "no tag": (sidecar(lambda v: v["seal"].pop("tag")), "its seal is none"),
    "no seal": (sidecar(lambda v: v.update(seal=None)), "has no seal of this device"),
    "no sidecar": (lambda engine: sidecar_path(engine).unlink(), "is missing"),
}


@pytest.mark.parametrize(("touch", "said"), TOUCHED.values(), ids=list(TOUCHED))
def test_what_was_touched_never_reaches_a_runtime(
    engine: Path, runtime: list[str], command: Command, touch: Callable[[Path], object], said: str
) -> None:
    touch(engine)
    code, out, err = command("verify", engine)
    assert (code, out) == (4, "")
    assert said in err
    assert len(err.splitlines()) == 2
    assert runtime == []


@pytest.mark.parametrize("name", ["verify", "predict", "stream", "benchmark", "evaluate", "compare"])
def test_every_command_that_opens_an_engine_asks(
    engine: Path, signed: Path, command: Command, runtime: list[str], tmp_path: Path, name: str
) -> None:
    change_sidecar(engine, lambda value: value.update(seal=None))
    image = tmp_path / "data" / "good" / "0.png"
    image.parent.mkdir(parents=True)
    shutil.copy(signed / "frames/00.png", image)
    arguments: dict[str, list[object]] = {
        "predict": [engine, image],
        "stream": ["--engine", engine, "--source", image],
        "evaluate": [engine, tmp_path / "data"],
        "compare": [engine, engine],
    }
    code, _, err = command(name, *arguments.get(name, [engine]))
    assert code == 4, err
    assert "has no seal of this device" in err
    assert "build it here, from a signed bundle: agp-edge build-engine BUNDLE" in err
    assert runtime == []


def test_an_engine_built_here_opens(engine: Path, key: Any, command: Command) -> None:
    session, sidecar = open_engine(engine)
    session.close()
    assert sidecar == read_sidecar(engine)
    assert sidecar.seal is not None
    assert sidecar.seal["signer"]["fingerprint"] == sha256_file(key.public)
    code, out, _ = command("verify", engine)
    assert code == 0
    assert "from a bundle signed by key" in out
    assert "accepted by policy" in out


def test_what_was_hashed_is_what_the_runtime_gets(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is swapped in the moment in which it was found good: the swapped bytes are never loaded."""
    good = engine.read_bytes()

    def check_then_swap(*arguments: Any) -> Any:
        signer = check_engine(*arguments)
        engine.write_bytes(b"no plan at all")
        return signer

    monkeypatch.setattr("agp_edge.engines.check_engine", check_then_swap)
    session, _ = open_engine(engine)
    session.close()
    assert engine.read_bytes() != good


def test_the_graph_that_was_verified_is_what_is_built(
    signed: Path, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agp_edge.engines import onnxruntime

    bundle = Bundle(signed)
    model = signed / "model.fp32.onnx"
    build = onnxruntime._OnnxRuntime.build
    seen: list[Path] = []

    def swap_then_build(self: Any, graph: Path, *rest: Any) -> Any:
        seen.append(graph)
        whole = model.read_bytes()
        model.write_bytes(b"another graph")
        try:
            return build(self, graph, *rest)
        finally:
            model.write_bytes(whole)

    monkeypatch.setattr(onnxruntime._OnnxRuntime, "build", swap_then_build)
    build_engine(bundle, "fp32", "onnxruntime")
    assert seen != [model]
    assert not seen[0].exists()


def test_an_engine_of_another_device_is_refused(engine: Path, policy: Path, runtime: list[str]) -> None:
    (policy.parent / "device.key").unlink()
    make_device_key(policy.parent / "device.key")
    with pytest.raises(ArtefactError, match="was built on another device"):
        open_engine(engine)
    assert runtime == []


def test_an_engine_built_without_a_policy_is_refused_under_one(
    signed: Path, write_policy: Callable[..., Path], key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGP_EDGE_POLICY", raising=False)
    engine = build_engine(Bundle(signed), "fp32", "onnxruntime").path
    assert read_sidecar(engine).seal is None
    open_engine(engine)[0].close()
    write_policy(required=False, keys=[key.public])
    open_engine(engine)[0].close()
    write_policy(keys=[key.public])
    with pytest.raises(ArtefactError, match="has no seal"):
        open_engine(engine)


def test_a_rehearsal_seals_so_that_the_policy_can_be_switched_on(
    signed: Path, write_policy: Callable[..., Path], key: Any
) -> None:
    write_policy(required=False, keys=[key.public])
    engine = build_engine(Bundle(signed), "fp32", "onnxruntime").path
    write_policy(keys=[key.public])
    open_engine(engine)[0].close()


def test_keys_rotate(
    engine: Path, signed: Path, write_policy: Callable[..., Path], key: Any, new_key: Callable[..., Any]
) -> None:
    new = new_key("next")
    write_policy(keys=[key.public, new.public])
    open_engine(engine)[0].close()
    sign_bundle(signed, new.private)
    write_policy(keys=[new.public])
    with pytest.raises(ArtefactError, match="does not accept: it is none of the keys"):
        open_engine(engine)
    build_engine(Bundle(signed), "fp32", "onnxruntime")
    open_engine(engine)[0].close()


def test_an_engine_outlives_the_certificate_behind_it(
    bundle: Path,
    new_authority: Callable[..., Any],
    write_policy: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line does not stand still because a certificate ran out: what counts is the day on which the engine was built."""
    works = new_authority()
    key, certificate = works.issue("release")
    sign_bundle(bundle, key, certificate, [works.root])
    write_policy(roots=[works.root])
    engine = build_engine(Bundle(bundle), "fp32", "onnxruntime").path
    # An engine's opening looks at no certificate at all: it could not even parse one.
    monkeypatch.setattr(x509, "load_der_x509_certificate", None)
    open_engine(engine)[0].close()
    printed = json.loads(sidecar_path(engine).read_text())["seal"]["signer"]["fingerprint"]
    write_policy(roots=[works.root], revoked=[printed])
    with pytest.raises(ArtefactError, match="is revoked"):
        open_engine(engine)


@pytest.mark.parametrize("missing", ["model_signing", "cryptography", "OpenSSL"])
def test_a_sealed_engine_opens_with_the_standard_library_alone(
    engine: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, missing, None)
    open_engine(engine)[0].close()


def test_the_default_engine_is_sealed_as_the_one_it_leads_to(
    signed: Path, policy: Path, command: Command
) -> None:
    code, _, err = command("build-engine", signed, "--accept", "sixteen frames are not there")
    assert code == 0, err
    (default,) = signed.parent.glob("*.default.engine")
    assert default.is_symlink()
    assert read_sidecar(default).seal is not None
    open_engine(default)[0].close()
    assert "accepted by policy" in command("verify", default)[1]
    engine = default.resolve()
    change_sidecar(engine, lambda value: value.update(normal_scores=[0.5] * 99))
    with pytest.raises(ArtefactError, match="its seal does not fit"):
        open_engine(default)
    # A link to another engine, or to a pair without a seal, brings nobody past the policy.
    change_sidecar(engine, lambda value: value.update(seal=None))
    with pytest.raises(ArtefactError, match="has no seal"):
        open_engine(default)


def test_nothing_is_built_that_could_not_be_sealed(signed: Path, policy: Path, command: Command) -> None:
    (policy.parent / "device.key").unlink()
    code, _, err = command("build-engine", signed, "--backend", "onnxruntime")
    assert code == 4
    assert "agp-edge sign --device-key" in err
    assert not list(signed.parent.glob("*.engine*"))


def test_the_device_key_is_its_owner_s_alone(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "lib" / "device.key"
    assert command("sign", "--device-key", path)[0] == 0
    assert path.stat().st_mode & 0o777 == 0o600
    key = read_device_key(path)
    assert len(key) == 32
    code, _, err = command("sign", "--device-key", path)
    assert code == 2
    assert "there is a device key" in err
    assert read_device_key(path) == key
    assert [p.name for p in path.parent.iterdir()] == ["device.key"]


@pytest.mark.parametrize("spoil", ["readable", "short", "long"])
def test_a_device_key_that_is_none_is_refused(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "device.key"
    make_device_key(path)
    if spoil == "readable":
        path.chmod(0o640)
    else:
        path.write_bytes(bytes(31 if spoil == "short" else 33))
    with pytest.raises(ArtefactError, match=r"may be read by others: mode 0640|no device key"):
        read_device_key(path)


def test_two_installers_cannot_both_make_a_key(tmp_path: Path) -> None:
    make_device_key(tmp_path / "device.key")
    with pytest.raises(InputError, match="there is a device key"):
        make_device_key(tmp_path / "device.key")
