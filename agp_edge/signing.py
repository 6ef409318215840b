"""Sign a bundle, in the OpenSSF Model Signing format, with a private key or a certificate; no network."""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agp_edge.bundle import Bundle, refuse_other_kind
from agp_edge.errors import ArtefactError, InputError
from agp_edge.extras import import_extra
from agp_edge.files import flush, translate_write_errors
from agp_edge.trust.pem import PemItem, read_pem
from agp_edge.trust.policy import Policy
from agp_edge.trust.signature import SIGNATURE, Signer, import_signing, read_claim, verify_claim

PASSWORD_VARIABLE = "AGP_EDGE_KEY_PASSWORD"
CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""NIST P-256, P-384 and P-521: those of the format."""
MAKE_KEY = "make one: openssl ecparam -name prime256v1 -genkey -noout -out KEY"


@dataclass(frozen=True)
class Signed:
    """A bundle that is signed now.

    Attributes:
        bundle: what was signed.
        signature: the file that was written, or replaced.
        signer: who signed.
    """

    bundle: Bundle
    signature: Path
    signer: Signer

    def describe(self) -> str:
        """What `agp-edge sign` prints."""
        return (
            f"{self.signature}\n  {len(self.bundle.hashes)} files of bundle {self.bundle.manifest.name} "
            f"({self.bundle.sha256[:12]}), signed by {self.signer.describe()}\n  {self.signer.fingerprint}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `agp-edge sign`."""
        return {
            "bundle": str(self.bundle.path),
            "bundle_sha256": self.bundle.sha256,
            "files": len(self.bundle.hashes),
            "signature": str(self.signature),
            "signer": self.signer.to_dict(),
        }


def ask_password(key: Path) -> str:
    """The password of an encrypted key: $AGP_EDGE_KEY_PASSWORD, or asked for on a terminal; never an argument.

    Raises:
        InputError: neither is there.
    """
    password = os.environ.get(PASSWORD_VARIABLE)
    if password is not None:
        return password
    if not sys.stdin.isatty():
        raise InputError(
            f"{key} needs a password, and there is no terminal to ask for it",
            f"put it into ${PASSWORD_VARIABLE}",
        )
    return getpass.getpass(f"password of {key}: ")


def sign_bundle(
    path: Path,
    key: Path,
    certificate: Path | None = None,
    chain: Sequence[Path] = (),
    *,
    password: Callable[[Path], str] = ask_password,
) -> Signed:
    """Sign a bundle that is whole; an earlier signature is replaced. The signature is verified before it is put in place.

    Args:
        path: the bundle.
        key: private key, EC on P-256, P-384 or P-521, PEM.
        certificate: sign as its subject; it belongs to `key`.
        chain: certificates from the one that issued `certificate` up to the root.
        password: asked when the key is encrypted.

    Raises:
        InputError: the key or a certificate cannot be read or used, or the folder cannot be written.
        ArtefactError: the bundle is not whole; then nothing is signed.
        MissingExtraError: `signing` is not installed.
    """
    library = import_signing("signing a bundle")
    refuse_other_kind(path, "a bundle")
    bundle = Bundle(path, enforce_policy=False)
    private = _load_key(key, password)
    believed = _believe(private, key, certificate, chain)
    target = path / SIGNATURE
    # Beside the bundle, not in it: whoever reads the bundle meanwhile must not find a stray file.
    beside = path.resolve().parent
    with translate_write_errors(target):
        scratch = tempfile.TemporaryDirectory(prefix=f".{path.resolve().name}.", dir=beside)
    with scratch as folder, _in_memory(private) as key_file:
        work = Path(folder) / SIGNATURE
        config = library.signing.Config()
        config.set_hashing_config(
            library.hashing.Config()
            .use_file_serialization(hashing_algorithm="sha256")
            .set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
        )
        if certificate is None:
            config.use_elliptic_key_signer(private_key=key_file)
        else:
            config.use_certificate_signer(
                private_key=key_file, signing_certificate=certificate, certificate_chain=list(chain)
            )
        with translate_write_errors(target):
            config.sign(path, work)
        claim = read_claim(Path(folder))
        assert claim is not None
        try:
            signer = verify_claim(claim, bundle.hashes, believed)
        except ArtefactError as error:
            reason = error.what.replace(str(work), "made now")
            raise InputError(f"not signed: {reason}", error.hint) from error
        with translate_write_errors(target):
            flush(work)
            work.replace(target)
    return Signed(bundle, target, signer)


def _load_key(path: Path, password: Callable[[Path], str]) -> bytes:
    """A private key, decrypted, as PEM. Only ever in memory."""
    serialization = import_extra(
        "cryptography.hazmat.primitives.serialization", "signing", "signing a bundle"
    )
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read key {path}: {error.strerror or error}", MAKE_KEY) from error
    secret = None
    if b"ENCRYPTED" in text:
        secret = password(path).encode()
    try:
        private = serialization.load_pem_private_key(text, secret)
    except Exception as error:  # Many kinds, of OpenSSL too: a wrong password, no PEM, an unknown algorithm.
        reason = (
            "the password is wrong, or it is damaged" if secret is not None else "it is no private key as PEM"
        )
        hint = (
            "give its password; keep the key: those who accept it know no other"
            if secret is not None
            else MAKE_KEY
        )
        raise InputError(f"cannot use key {path}: {reason}", hint) from error
    curve = getattr(getattr(private, "curve", None), "name", None)
    if curve not in CURVES:
        kind = f"a key on {curve}" if curve else type(private).__name__.strip("_")
        raise InputError(
            f"cannot use key {path}: it is {kind}, the format takes {', '.join(CURVES)}", MAKE_KEY
        )
    pem: bytes = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem


def _believe(private: bytes, key: Path, certificate: Path | None, chain: Sequence[Path]) -> Policy:
    """A policy that accepts what is about to be signed: the signature is held against it before it is put in place."""
    serialization = import_extra(
        "cryptography.hazmat.primitives.serialization", "signing", "signing a bundle"
    )
    public = serialization.load_pem_private_key(private, None).public_key()
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    own = public.public_bytes(encoding, form)
    if certificate is None:
        if chain:
            raise InputError(
                "--chain was given without --certificate", "give the certificate of the key, too"
            )
        return Policy(path=key, required=True, keys=(PemItem("PUBLIC KEY", own, key),))
    (leaf, *_) = read_pem(certificate, "CERTIFICATE", "certificate")
    x509 = import_extra("cryptography.x509", "signing", "signing with a certificate")
    try:
        known = x509.load_der_x509_certificate(leaf.der).public_key().public_bytes(encoding, form)
    except ValueError as error:
        raise InputError(f"certificate {certificate} is damaged: {error}", "give it as PEM") from error
    if known != own:
        raise InputError(
            f"certificate {certificate} is not of key {key}", "give the key that it was issued for"
        )
    roots = [item for file in chain for item in read_pem(file, "CERTIFICATE", "chain")]
    if not roots:
        raise InputError(
            f"certificate {certificate} was given without those that vouch for it",
            "give them with --chain FILE, the root last",
        )
    return Policy(path=roots[-1].where, required=True, roots=(roots[-1],))


@contextlib.contextmanager
def _in_memory(private: bytes) -> Iterator[Path]:
    """A decrypted key as a file that lies on no disk: the library takes keys by path, and certificates' without password."""
    descriptor = os.memfd_create("key")
    try:
        os.write(descriptor, private)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
