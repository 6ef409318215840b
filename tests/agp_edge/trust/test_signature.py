"""Under a policy nothing that was touched gets as far as a runtime: every class of bytes is flipped in turn."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agp_edge.bundle import Bundle, write_bundle
from agp_edge.errors import ArtefactError
from agp_edge.files import sha256_file
from agp_edge.signing import sign_bundle
from agp_edge.trust import SIGNATURE, check_bundle, standing_of_bundle

library: Any = pytest.importorskip("model_signing", reason="needs the extra `signing`")
Command = Callable[..., tuple[int, str, str]]
Reseal = Callable[[Path], None]


def flip(path: Path, where: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def flip_model_and_reseal(bundle: Path) -> None:
    flip(bundle / "model.fp32.onnx")
    seal_again(bundle)


def seal_again(bundle: Path) -> None:
    """Bring the manifest in line with the files, as a forger would: the signature alone can tell."""
    path = bundle / "manifest.json"
    value = json.loads(path.read_text())
    for name in value["files"]:
        file = bundle / name
        value["files"][name] = {"sha256": sha256_file(file), "size_bytes": file.stat().st_size}
    path.write_text(json.dumps(value))


def change_manifest(bundle: Path) -> None:
    path = bundle / "manifest.json"
    value = json.loads(path.read_text())
    # A threshold that lets everything pass: no file but the manifest says it.
    value["artefacts"]["fp32"]["normal_scores"][-1] = 1e6
    path.write_text(json.dumps(value))


def add_named(bundle: Path) -> None:
    path = bundle / "manifest.json"
    (bundle / "model.fp16.onnx").write_bytes((bundle / "model.fp32.onnx").read_bytes())
    value = json.loads(path.read_text())
    value["files"]["model.fp16.onnx"] = value["files"]["model.fp32.onnx"]
    path.write_text(json.dumps(value))


def link_out(name: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        outside = bundle.parent / f"outside-{Path(name).name}"
        (bundle / name).rename(outside)
        (bundle / name).symlink_to(outside)

    return change


def strip_frames(bundle: Path) -> None:
    path = bundle / "manifest.json"
    value = json.loads(path.read_text())
    gone = value["frames"].pop()
    del value["files"][gone["file"]]
    (bundle / gone["file"]).unlink()
    path.write_text(json.dumps(value))


def make_signature_a_folder(bundle: Path) -> None:
    (bundle / SIGNATURE).unlink()
    (bundle / SIGNATURE).mkdir()


TOUCHED: dict[str, Callable[[Path], object]] = {
    "a bit of the manifest": lambda bundle: flip(bundle / "manifest.json", 0.4),
    "what the manifest says": change_manifest,
    "a bit of a model": lambda bundle: flip(bundle / "model.fp32.onnx"),
    "a bit of a model, manifest brought in line": flip_model_and_reseal,
    "a bit of a frame": lambda bundle: flip(bundle / "frames/03.png"),
    "a bit of the signature": lambda bundle: flip(bundle / SIGNATURE),
    "no signature": lambda bundle: (bundle / SIGNATURE).unlink(),
    "an empty signature": lambda bundle: (bundle / SIGNATURE).write_bytes(b""),
    "half a signature": lambda bundle: (bundle / SIGNATURE).write_bytes(
        (bundle / SIGNATURE).read_bytes()[:400]
    ),
    "a signature that is a link": link_out(SIGNATURE),
    "a signature that is a folder": make_signature_a_folder,
    "an extra file": lambda bundle: (bundle / "extra.onnx").write_bytes(b"x"),
    "an extra file that the manifest names": add_named,
    "an extra file that other tools leave out": lambda bundle: (bundle / ".gitignore").write_bytes(b"x"),
    "a removed file": lambda bundle: (bundle / "frames/03.png").unlink(),
    "a removed file that the manifest names no more": strip_frames,
    "a link out of the folder": link_out("model.fp32.onnx"),
}


@pytest.mark.parametrize("touch", TOUCHED.values(), ids=list(TOUCHED))
def test_what_was_touched_never_reaches_a_runtime(
    signed: Path, policy: Path, runtime: list[str], command: Command, touch: Callable[[Path], object]
) -> None:
    touch(signed)
    for arguments in (["verify", signed], ["build-engine", signed, "--backend", "onnxruntime"]):
        code, out, err = command(*arguments)
        assert (code, out) == (4, ""), err
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 2
    assert runtime == []


@pytest.mark.parametrize("name", ["verify", "build-engine", "evaluate", "compare"])
def test_every_command_that_opens_a_bundle_asks(
    bundle: Path, policy: Path, runtime: list[str], command: Command, tmp_path: Path, name: str
) -> None:
    (tmp_path / "data" / "good").mkdir(parents=True)
    (tmp_path / "data" / "good" / "0.png").write_bytes((bundle / "frames/00.png").read_bytes())
    more = {"evaluate": [tmp_path / "data"], "compare": [bundle]}.get(name, [])
    code, _, err = command(name, bundle, *more)
    assert code == 4, err
    assert "is not signed" in err
    assert runtime == []


def test_a_runtime_is_reached_when_all_is_well(signed: Path, policy: Path, runtime: list[str]) -> None:
    """Guards the tests above: what they see refused is not refused for another reason."""
    from agp_edge.engines.onnxruntime import open_graph

    with pytest.raises(ArtefactError, match="a runtime was reached"):
        open_graph(Bundle(signed))
    assert len(runtime) == 1


@pytest.mark.parametrize("where", [i / 48 for i in range(49)])
def test_no_bit_of_a_signature_is_spare(signed: Path, policy: Path, where: float) -> None:
    flip(signed / SIGNATURE, where)
    with pytest.raises(ArtefactError):
        Bundle(signed)


def test_without_a_policy_nothing_is_asked(
    signed: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGP_EDGE_POLICY", raising=False)
    change_manifest(signed)
    assert Bundle(signed).signer is None


def test_a_rehearsal_opens_everything_and_says_what_it_would_refuse(
    signed: Path, write_policy: Callable[..., Path], key: Any, new_key: Callable[..., Any]
) -> None:
    write_policy(required=False, keys=[new_key("other").public])
    read = Bundle(signed)
    assert read.signer is None
    standing = standing_of_bundle(signed, read.hashes)
    assert (standing.accepted, standing.required) == (False, False)
    assert "would be refused" in standing.describe()
    write_policy(required=False, keys=[key.public])
    assert Bundle(signed).signer is not None


def test_another_key_is_refused_by_name(
    bundle: Path, policy: Path, new_key: Callable[..., Any], runtime: list[str]
) -> None:
    other = new_key("other")
    sign_bundle(bundle, other.private)
    with pytest.raises(ArtefactError, match=rf"by key {sha256_file(other.public)[:12]}, which policy"):
        Bundle(bundle)


def test_the_hint_of_an_accepted_key_does_not_make_a_signature(
    bundle: Path, policy: Path, key: Any, new_key: Callable[..., Any]
) -> None:
    sign_bundle(bundle, new_key("other").private)
    path = bundle / SIGNATURE
    value = json.loads(path.read_text())
    value["verificationMaterial"]["publicKey"]["hint"] = sha256_file(key.public)
    path.write_text(json.dumps(value))
    with pytest.raises(ArtefactError, match="is not good: it was not made with this key"):
        Bundle(bundle)


def test_a_replaced_key_file_refuses_what_was_accepted(
    signed: Path, policy: Path, key: Any, new_key: Callable[..., Any]
) -> None:
    Bundle(signed)
    key.public.write_bytes(new_key("other").public.read_bytes())
    with pytest.raises(ArtefactError, match="none of the keys"):
        Bundle(signed)


def test_a_replaced_key_does_not_open_the_door_where_its_fingerprint_is_given(
    bundle: Path, write_policy: Callable[..., Path], key: Any, new_key: Callable[..., Any]
) -> None:
    write_policy(keys=[{"file": key.public, "sha256": sha256_file(key.public)}])
    other = new_key("other")
    sign_bundle(bundle, other.private)
    key.public.write_bytes(other.public.read_bytes())
    with pytest.raises(ArtefactError, match="as it says"):
        Bundle(bundle)


def test_a_revoked_key_is_refused(signed: Path, write_policy: Callable[..., Path], key: Any) -> None:
    write_policy(keys=[key.public], revoked=[sha256_file(key.public)])
    with pytest.raises(ArtefactError, match="is revoked"):
        Bundle(signed)


def sign_statement(bundle: Path, key: Any, change: Callable[[dict[str, Any]], object]) -> None:
    """Sign another statement than the one that is there, with the very key: what a careless signer could give out."""
    path = bundle / SIGNATURE
    value = json.loads(path.read_text())
    envelope = value["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    kind = envelope["payloadType"]
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(
        key.key.sign(signed, ec.ECDSA(hashes.SHA256()))
    ).decode()
    path.write_text(json.dumps(value))


def resources(statement: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = statement["predicate"]["resources"]
    return found


def set_method(statement: dict[str, Any]) -> None:
    statement["predicate"]["serialization"]["method"] = "shards"


STATEMENTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "..": (lambda s: resources(s)[0].update(name="../outside.png"), "does not cover"),
    ".. as well": (
        lambda s: resources(s).append({"name": "../x", "algorithm": "sha256", "digest": "0" * 64}),
        "covers what the bundle does not hold: '../x'",
    ),
    "absolute": (
        lambda s: resources(s).append({"name": "/etc/passwd", "algorithm": "sha256", "digest": "0" * 64}),
        "does not hold: '/etc/passwd'",
    ),
    "twice": (lambda s: resources(s).append(dict(resources(s)[0])), "names a file twice"),
    "fewer": (lambda s: resources(s).pop(), "does not cover"),
    "another root digest": (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "inconsistent"),
    "another predicate": (lambda s: s.update(predicateType="https://example.org/"), "Predicate type"),
    "shards": (set_method, "not over whole files"),
}


@pytest.mark.parametrize(("change", "said"), STATEMENTS.values(), ids=list(STATEMENTS))
def test_a_good_signature_over_another_statement_is_refused(
    signed: Path, policy: Path, key: Any, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    sign_statement(signed, key, lambda statement: None)
    Bundle(signed)
    sign_statement(signed, key, change)
    with pytest.raises(ArtefactError, match=said):
        Bundle(signed)


def test_what_this_signs_the_format_s_own_library_takes(signed: Path, key: Any) -> None:
    library.verifying.Config().use_elliptic_key_verifier(public_key=key.public).verify(
        signed, signed / SIGNATURE
    )


def test_what_the_format_s_own_library_signs_is_taken(bundle: Path, policy: Path, key: Any) -> None:
    target = bundle / SIGNATURE
    hashed = library.hashing.Config().set_ignored_paths(paths=[target])
    config = library.signing.Config().set_hashing_config(hashed)
    config.use_elliptic_key_signer(private_key=key.private).sign(bundle, target)
    signer = Bundle(bundle).signer
    assert signer is not None
    assert signer.fingerprint == sha256_file(key.public)


def test_the_library_hashes_nothing_itself(signed: Path, policy: Path) -> None:
    """What is compared with the signature are the hashes that were given: of bytes that were read once."""
    read = Bundle(signed)
    flip(signed / "model.fp32.onnx")
    assert check_bundle(signed, read.hashes) == read.signer
    with pytest.raises(ArtefactError, match="was changed while it was read"):
        read.model_bytes("fp32")


def test_calibrating_again_leaves_no_stale_signature(signed: Path, policy: Path) -> None:
    read = Bundle(signed, enforce_policy=False)
    files: dict[str, Path | bytes] = {name: (signed / name).read_bytes() for name in read.manifest.files}
    write_bundle(signed, read.manifest, files)
    assert not (signed / SIGNATURE).exists()


def test_a_stale_signature_is_told_without_a_key(
    signed: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.delenv("AGP_EDGE_POLICY", raising=False)
    assert "signed by key" in command("verify", signed)[1]
    change_manifest(signed)
    code, _, err = command("verify", signed)
    assert code == 4
    assert "is of another 'manifest.json'" in err


def test_inspect_looks_and_says_so(bundle: Path, policy: Path, runtime: list[str], command: Command) -> None:
    code, out, _ = command("inspect", bundle)
    assert code == 0
    assert "not signed, refused by policy" in out
    assert runtime == []
    trust = json.loads(command("inspect", bundle, "--json", "-")[1])["trust"]
    assert trust["accepted"] is False
    assert trust["required"] is True


def test_verify_names_the_signer(signed: Path, policy: Path, key: Any, command: Command) -> None:
    code, out, _ = command("verify", signed)
    fingerprint = sha256_file(key.public)
    assert code == 0
    assert f"signed by key {fingerprint[:12]}, accepted by policy {policy}" in out
    trust = json.loads(command("verify", signed, "--json", "-")[1])["trust"]
    assert (trust["accepted"], trust["signer"]["fingerprint"]) == (True, fingerprint)


def test_a_policy_is_tried_before_it_is_installed(
    bundle: Path, policy: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.delenv("AGP_EDGE_POLICY")
    assert command("verify", bundle)[0] == 0
    assert command("verify", bundle, "--policy", policy)[0] == 4
    assert command("verify", bundle)[0] == 0


@pytest.mark.parametrize("missing", ["model_signing", "OpenSSL"])
def test_without_the_extra_a_signature_is_never_taken_for_good(
    signed: Path,
    policy: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    runtime: list[str],
    missing: str,
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    code, _, err = command("verify", signed)
    assert code == 2
    assert "pip install 'agp-edge[signing]'" in err
    assert runtime == []
