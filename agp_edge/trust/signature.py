"""The signature of a bundle: `model.sig`, in the OpenSSF Model Signing format.

A Sigstore bundle around a DSSE envelope around an in-toto statement, which names every file of the bundle with its
SHA-256. https://github.com/sigstore/model-transparency has the format and the library that checks it here.

Reading what a signature claims needs the standard library alone; believing it needs the `signing` extra and a policy.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from agp_edge.errors import ArtefactError
from agp_edge.extras import import_extra
from agp_edge.files import parse_json, read_limited, sha256_bytes
from agp_edge.trust.pem import PemItem
from agp_edge.trust.policy import FINGERPRINT, Policy

SIGNATURE = "model.sig"
"""What the format's tools call the file, inside the folder that it signs."""
LIMIT_BYTES = 16 << 20
SIGN_AGAIN = "fetch the bundle again, or sign it again: agp-edge sign BUNDLE --key FILE"


@dataclass(frozen=True)
class Signer:
    """Who signed.

    Attributes:
        kind: whether a bare public key or a certificate checks the signature.
        fingerprint: of that key or certificate, 64 hex digits.
        subject: of the certificate, as RFC 4514 writes it.
        chain: fingerprints from the certificate to the root that the policy accepts.
    """

    kind: Literal["key", "certificate"]
    fingerprint: str
    subject: str | None = None
    chain: tuple[str, ...] = ()

    def describe(self) -> str:
        """As in `key d0bd74f4fef0` or `certificate 4f3a2b1c0d9e (CN=release)`."""
        name = f" ({self.subject})" if self.subject else ""
        return f"{self.kind} {self.fingerprint[:12]}{name}"

    def to_dict(self) -> dict[str, Any]:
        """The JSON of reports and seals."""
        return {**asdict(self), "chain": list(self.chain)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Signer:
        """Read what `to_dict` gave, of a seal that was verified."""
        return cls(value["kind"], value["fingerprint"], value["subject"], tuple(value["chain"]))


@dataclass(frozen=True)
class Claim:
    """What a signature says, before anything of it is believed.

    Attributes:
        where: the file.
        data: its bytes, read once.
        signer: who is said to have signed; of a certificate only the fingerprint.
        certificates: DER, the signer's first.
        files: path inside the bundle -> SHA-256.
    """

    where: Path
    data: bytes
    signer: Signer
    certificates: tuple[bytes, ...]
    files: dict[str, str]


def read_claim(bundle: Path) -> Claim | None:
    """Read a bundle's signature, or None where there is none.

    Strict: the fields that the format has, each once and in its one spelling, so that this reader and the library
    cannot take the same bytes for two things.

    Raises:
        ArtefactError: it cannot be read, or is no signature by a key or a certificate.
    """
    path = bundle / SIGNATURE
    if not os.path.lexists(path):
        return None
    data = read_limited(path, "signature", limit_bytes=LIMIT_BYTES, follow_links=False)
    try:
        return _parse(path, data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else error
        raise ArtefactError(f"signature {path} cannot be read: {reason}", SIGN_AGAIN) from error


def _parse(path: Path, data: bytes) -> Claim:
    top = _fields(parse_json(data, f"signature {path}"), "mediaType", "verificationMaterial", "dsseEnvelope")
    material, envelope = top["verificationMaterial"], top["dsseEnvelope"]
    _fields(envelope, "payload", "payloadType", "signatures")
    (signature,) = envelope["signatures"]
    _decode(_fields(signature, "sig", optional=("keyid",))["sig"])
    certificates: tuple[bytes, ...] = ()
    if "publicKey" in material:
        _fields(material, "publicKey", optional=("tlogEntries",))
        hint = _fields(material["publicKey"], "hint")["hint"]
        if not isinstance(hint, str) or not FINGERPRINT.fullmatch(hint):
            raise ValueError("it does not say which key made it")
        signer = Signer("key", hint)
    else:
        _fields(material, "x509CertificateChain", optional=("tlogEntries",))
        chain = _fields(material["x509CertificateChain"], "certificates")["certificates"]
        certificates = tuple(_decode(_fields(item, "rawBytes")["rawBytes"]) for item in chain)
        if not certificates:
            raise ValueError("its chain has no certificate")
        signer = Signer("certificate", sha256_bytes(certificates[0]))
    statement = parse_json(_decode(envelope["payload"]), f"statement in signature {path}")
    predicate = statement["predicate"]
    kind = predicate["serialization"]["method"], predicate["serialization"]["hash_type"]
    if kind != ("files", "sha256"):
        raise ValueError(f"it was made over {kind[0]} with {kind[1]}, not over whole files with sha256")
    names = [item["name"] for item in predicate["resources"]]
    if len(set(names)) != len(names):
        raise ValueError("it names a file twice")
    files = {item["name"]: item["digest"] for item in predicate["resources"]}
    return Claim(path, data, signer, certificates, files)


def _fields(value: Any, *names: str, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(value, dict) or not set(names) <= set(value) <= {*names, *optional}:
        raise ValueError(f"expected the fields {', '.join(names)}")
    return value


def _decode(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("a base64 text has stray bits")
    return data


def check_files(claim: Claim, hashes: Mapping[str, str]) -> None:
    """Hold the files that a signature names against those that are there.

    Args:
        claim: the signature.
        hashes: path inside the bundle -> SHA-256 of the bytes that were read.

    Raises:
        ArtefactError: one is missing, extra or another.
    """
    for what, names in (
        ("does not cover", set(hashes) - set(claim.files)),
        ("covers what the bundle does not hold:", set(claim.files) - set(hashes)),
        ("is of another", {name for name in hashes if claim.files.get(name) != hashes[name]}),
    ):
        if names:
            raise ArtefactError(
                f"signature {claim.where} {what} {', '.join(map(repr, sorted(names)))}", SIGN_AGAIN
            )


def refusal(policy: Policy, signer: Signer) -> str | None:
    """Why a policy does not accept a signer whose signature was verified; None if it does."""
    bad = policy.revoked & {signer.fingerprint, *signer.chain}
    if bad:
        return f"{sorted(bad)[0][:12]} is revoked"
    if signer.kind == "key":
        known = signer.fingerprint in {key.fingerprint for key in policy.keys}
        return None if known else "it is none of the keys"
    if not set(signer.chain) & {root.fingerprint for root in policy.roots}:
        return "none of the roots vouches for it"
    if policy.subjects and signer.subject not in policy.subjects:
        return "its subject is none of the subjects"
    return None


def verify_claim(claim: Claim, hashes: Mapping[str, str], policy: Policy) -> Signer:
    """Verify a signature over files whose hashes are known.

    Args:
        claim: the signature.
        hashes: path inside the bundle -> SHA-256 of the bytes that were read.
        policy: whom to believe.

    Returns:
        Who signed.

    Raises:
        ArtefactError: other files, a signature that is not good, a certificate that is not valid now, or a signer that
            the policy does not accept.
        MissingExtraError: `signing` is not installed.
    """
    check_files(claim, hashes)
    signer = claim.signer
    if signer.kind == "certificate":
        signer = _verify_chain(claim, policy)
    reason = refusal(policy, signer)
    if reason is not None:
        raise ArtefactError(
            f"signature {claim.where} is by {signer.describe()}, which policy {policy.path} does not accept: {reason}",
            "sign it with an accepted key: agp-edge sign BUNDLE --key FILE; or accept this one in the policy",
        )
    key = next((key for key in policy.keys if key.fingerprint == signer.fingerprint), None)
    _run_library(claim, hashes, [key] if key and signer.kind == "key" else policy.roots)
    return signer


def import_signing(purpose: str) -> Any:
    """The `model_signing` package, with what it needs and does not pull in.

    Raises:
        MissingExtraError: `signing` is not installed.
    """
    import_extra("OpenSSL", "signing", purpose)
    package = import_extra("model_signing", "signing", purpose)
    for module in ("hashing", "manifest", "signing", "verifying"):
        import_extra(f"model_signing.{module}", "signing", purpose)
    return package


class _KnownHashes:
    """What the library asks for the hashes of a folder: those of the bytes that we read, and not of a second reading.

    Args:
        library: `model_signing`.
        hashes: path inside the bundle -> SHA-256.
    """

    def __init__(self, library: Any, hashes: Mapping[str, str]) -> None:
        self._manifest = library.manifest
        self._digest = library.hashing.hashing.Digest
        self._hashes = hashes

    def hash(self, model_path: Any, *, files_to_hash: Iterable[Any] | None = None) -> Any:
        kind = self._manifest.SerializationType.from_args(
            {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
        )
        items = [
            kind.new_item(name, self._digest("sha256", bytes.fromhex(digest)))
            for name, digest in self._hashes.items()
        ]
        return self._manifest.Manifest(Path(model_path).name, items, kind)

    def add_ignored_paths(self, *, model_path: Any, paths: Iterable[Any]) -> None:
        """Nothing is ignored, whatever the signature asks for."""


def _run_library(claim: Claim, hashes: Mapping[str, str], trusted: Iterable[PemItem]) -> None:
    """Have `model-signing` verify the very bytes that were read, with the very keys that were fingerprinted."""
    library = import_signing("verifying a signature")
    with tempfile.TemporaryDirectory(prefix="agp-edge-") as folder:
        signature, pem = Path(folder) / SIGNATURE, Path(folder) / "trusted.pem"
        signature.write_bytes(claim.data)
        pem.write_bytes(b"".join(item.text for item in trusted))
        config = library.verifying.Config()
        config.set_hashing_config(_KnownHashes(library, hashes))
        try:
            if claim.signer.kind == "key":
                config.use_elliptic_key_verifier(public_key=pem)
            else:
                # Never with an empty chain: the library would then believe every authority of the web.
                config.use_certificate_verifier(certificate_chain=[pem])
            config.verify(claim.where.parent, signature)
        except Exception as error:  # Of any library below, for whatever reason: it is not good.
            reason = str(error).splitlines()[0] if str(error) else "it was not made with this key"
            raise ArtefactError(f"signature {claim.where} is not good: {reason}", SIGN_AGAIN) from error


def _verify_chain(claim: Claim, policy: Policy) -> Signer:
    """Follow the certificates to a root of the policy, as of now.

    The library judges them as of the day on which the signer's certificate began, and so takes an expired one for good.
    """
    purpose = "verifying a certificate"
    crypto = import_extra("OpenSSL.crypto", "signing", purpose)
    x509 = import_extra("cryptography.x509", "signing", purpose)
    hashes = import_extra("cryptography.hazmat.primitives.hashes", "signing", purpose)
    try:
        leaf, *others = [x509.load_der_x509_certificate(der) for der in claim.certificates]
        subject = leaf.subject.rfc4514_string()
        if not policy.roots:
            return Signer("certificate", claim.signer.fingerprint, subject)
        store = crypto.X509Store()
        for root in policy.roots:
            store.add_cert(crypto.X509.from_cryptography(x509.load_der_x509_certificate(root.der)))
        to_openssl = crypto.X509.from_cryptography
        context = crypto.X509StoreContext(store, to_openssl(leaf), [to_openssl(other) for other in others])
        chain = [item.to_cryptography() for item in context.get_verified_chain()]
        usages = [item.value for item in leaf.extensions if isinstance(item.value, x509.KeyUsage)]
    except Exception as error:  # Of two libraries, for whatever reason: it is not good.
        raise ArtefactError(
            f"signature {claim.where}: certificate {claim.signer.fingerprint[:12]} is not valid here and now: {error}",
            "sign again with a certificate that one of the policy's roots vouches for; look at this machine's clock, too",
        ) from error
    fingerprints = tuple(item.fingerprint(hashes.SHA256()).hex() for item in chain)
    signer = Signer("certificate", claim.signer.fingerprint, subject, fingerprints)
    if not any(usage.digital_signature for usage in usages):
        raise ArtefactError(
            f"signature {claim.where}: {signer.describe()} is not for signing: it lacks the key usage digitalSignature",
            "have a certificate issued with keyUsage = digitalSignature",
        )
    return signer
