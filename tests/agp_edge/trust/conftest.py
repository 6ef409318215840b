"""A small bundle with a real graph, real keys made on the spot, policies, and a runtime that tells when it is reached."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agp_edge.bundle import BundleFrame, Manifest, Part, write_bundle
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.files import sha256_file
from agp_edge.frame import FrameSpec
from agp_edge.signing import sign_bundle
from agp_edge.trust.seal import make_device_key

SPEC = FrameSpec(width=64, height=48, channels=3)
DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Key:
    """An EC key pair on disk."""

    private: Path
    public: Path
    key: ec.EllipticCurvePrivateKey


def make_key(
    folder: Path, name: str, curve: ec.EllipticCurve | None = None, password: bytes | None = None
) -> Key:
    key = ec.generate_private_key(curve or ec.SECP256R1())
    pem = serialization.Encoding.PEM
    secret = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    folder.mkdir(exist_ok=True)
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, secret))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return Key(private, public, key)


@pytest.fixture
def new_key(tmp_path: Path) -> Callable[..., Key]:
    """`new_key(name, curve=P-256, password=None)`."""
    return lambda name="release", **options: make_key(tmp_path / "keys", name, **options)


@pytest.fixture
def key(new_key: Callable[..., Key]) -> Key:
    """The key that the fixture `policy` accepts."""
    return new_key("release")


@dataclass(frozen=True)
class Authority:
    """A root, and how to issue with it."""

    folder: Path
    root: Path
    key: ec.EllipticCurvePrivateKey
    name: x509.Name

    def issue(
        self, subject: str = "release", *, days: tuple[int, int] = (-1, 365), signing: bool = True
    ) -> tuple[Path, Path]:
        """A private key and its certificate, valid from and to so many days from now."""
        pair = make_key(self.folder, subject)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
        file = self.folder / f"{subject}.pem"
        certificate = _certificate(name, self.name, pair.key, self.key, days, ca=False, signing=signing)
        file.write_bytes(certificate)
        return pair.private, file

    def below(self, name: str = "line 3") -> Authority:
        """An authority that this one vouches for."""
        pair = make_key(self.folder, name)
        title = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        file = self.folder / f"{name}.ca.pem"
        file.write_bytes(
            _certificate(title, self.name, pair.key, self.key, (-1, 365), ca=True, signing=False)
        )
        return Authority(self.folder, file, pair.key, title)


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: Any,
    by: Any,
    days: tuple[int, int],
    *,
    ca: bool,
    signing: bool,
) -> bytes:
    now = datetime.datetime.now(datetime.timezone.utc)
    usage = dict.fromkeys(("content_commitment", "data_encipherment", "key_agreement", "crl_sign"), False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=signing,
                key_encipherment=not signing,
                key_cert_sign=ca,
                encipher_only=False,
                decipher_only=False,
                **usage,
            ),
            critical=True,
        )
    )
    return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def new_authority(tmp_path: Path) -> Callable[[str], Authority]:
    """`new_authority(name)`: a certificate authority of its own, valid for ten years."""

    def make(name: str = "works") -> Authority:
        folder = tmp_path / name
        pair = make_key(folder, "root")
        title = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        root = folder / "root.pem"
        root.write_bytes(_certificate(title, title, pair.key, pair.key, (-900, 3650), ca=True, signing=False))
        return Authority(folder, root, pair.key, title)

    return make


@pytest.fixture(scope="session")
def _whole_bundle(_tiny_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    model = _tiny_built.with_name("model.fp32.onnx")
    files: dict[str, Path | bytes] = {"model.fp32.onnx": model}
    frames: list[BundleFrame] = []
    splits: dict[str, list[str]] = {"gate": [], "threshold": []}
    scores: dict[str, list[float]] = {"gate": [], "threshold": []}
    with OnnxRuntimeSession(model, SPEC) as session:
        for i in range(34):
            pixels = np.full(SPEC.shape, 60 + i, np.uint8)
            pixels[8:16, 8:16] = 90 + i
            file = folder / f"{i:02}.png"
            assert cv2.imwrite(str(file), pixels)
            part: Part = "gate" if i % 2 else "threshold"
            sha256 = sha256_file(file)
            score = float(session.infer(pixels[None]).score[0])
            files[f"frames/{i:02}.png"] = file
            frames.append(BundleFrame(f"frames/{i:02}.png", f"good/{i:02}.png", sha256, part, i < 4, score))
            splits[part].append(sha256)
            scores[part].append(score)
    manifest = Manifest(
        name="tiny",
        frame=SPEC,
        network={"backbone": "none"},
        producer={"agp_edge": "1"},
        trained=[],
        held_out=[*splits["gate"], *splits["threshold"]],
        splits=splits,
        frames=frames,
        artefacts={"fp32": {"normal_scores": sorted(scores["threshold"])}},
    )
    return write_bundle(folder / "tiny.bundle", manifest, files).path


@pytest.fixture
def bundle(_whole_bundle: Path, tmp_path: Path) -> Path:
    """A calibrated bundle that is not signed. Yours to spoil."""
    return Path(shutil.copytree(_whole_bundle, tmp_path / "tiny.bundle"))


@pytest.fixture
def signed(bundle: Path, key: Key) -> Path:
    """The same, signed by `key`. Yours to spoil."""
    return sign_bundle(bundle, key.private).bundle.path


@pytest.fixture
def write_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`write_policy(required=True, keys=[…], …)`: a policy in force, with a device key beside it."""

    def toml(value: object) -> str:
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{name} = {toml(item)}" for name, item in value.items()) + " }"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(map(toml, value)) + "]"
        return json.dumps(str(value) if isinstance(value, Path) else value)

    def write(**entries: object) -> Path:
        folder = tmp_path / "policy"
        folder.mkdir(exist_ok=True)
        if not (folder / "device.key").exists():
            make_device_key(folder / "device.key")
        lines = {"required": True, "device_key": "device.key", **entries}
        path = folder / "policy.toml"
        path.write_text("[signing]\n" + "".join(f"{name} = {toml(value)}\n" for name, value in lines.items()))
        monkeypatch.setenv("AGP_EDGE_POLICY", str(path))
        return path

    return write


@pytest.fixture
def policy(write_policy: Callable[..., Path], key: Key) -> Path:
    """A policy in force that requires the signature of `key`."""
    return write_policy(keys=[key.public])


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ONNX Runtime was asked to load from now on: it loads nothing any more."""
    import onnxruntime

    asked: list[str] = []

    def load(model: object, *rest: object, **more: object) -> None:
        asked.append(str(model)[:60])
        raise AssertionError("a runtime was reached")

    monkeypatch.setattr(onnxruntime, "InferenceSession", load)
    return asked
