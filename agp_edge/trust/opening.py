"""The one place where a policy is enforced: `Bundle` and `open_engine` ask here before a runtime sees a byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agp_edge.errors import ArtefactError, MissingExtraError
from agp_edge.trust.policy import Policy, policy_in_force
from agp_edge.trust.seal import check_seal, make_seal, read_device_key
from agp_edge.trust.signature import Signer, check_files, read_claim, refusal, verify_claim


def check_bundle(bundle: Path, hashes: Mapping[str, str]) -> Signer | None:
    """Enforce this machine's policy on a bundle that was read.

    Args:
        bundle: its folder.
        hashes: path inside the bundle -> SHA-256 of the bytes that were read, the manifest's among them.

    Returns:
        Who signed it; None without a policy, and where a policy that requires nothing does not accept the signature.

    Raises:
        ArtefactError: the policy requires a signature that it accepts, and this is none.
        MissingExtraError: a signature is to be verified, and `signing` is not installed.
        InputError: the policy cannot be read.
    """
    policy = policy_in_force()
    if policy is None:
        return None
    try:
        return _verify(bundle, hashes, policy)
    except (ArtefactError, MissingExtraError):
        if policy.required:
            raise
        return None


def _verify(bundle: Path, hashes: Mapping[str, str], policy: Policy) -> Signer:
    claim = read_claim(bundle)
    if claim is None:
        raise ArtefactError(
            f"bundle {bundle} is not signed, and policy {policy.path} accepts only signed ones",
            f"sign it where it was made: agp-edge sign {bundle.name} --key FILE",
        )
    return verify_claim(claim, hashes, policy)


def check_can_seal(signer: Signer | None) -> None:
    """Before a long build: would `seal_engine` find this device's key?

    Raises:
        ArtefactError: as `seal_engine`.
    """
    policy = policy_in_force() if signer is not None else None
    if policy is not None and policy.required:
        read_device_key(policy.device_key)


def seal_engine(sidecar: Mapping[str, Any], signer: Signer | None) -> dict[str, Any] | None:
    """The seal for the sidecar of an engine that was built here; None where no accepted signer stands behind its bundle.

    Args:
        sidecar: everything else that is written there.
        signer: what `check_bundle` gave for the bundle.

    Raises:
        ArtefactError: a policy requires seals, and this device has no key to make one with.
    """
    policy = policy_in_force() if signer is not None else None
    if policy is None or signer is None:
        return None
    try:
        return make_seal(read_device_key(policy.device_key), sidecar, signer.to_dict())
    except ArtefactError:
        if policy.required:
            raise
        return None


def check_engine(engine: Path, sidecar: Mapping[str, Any], seal: Mapping[str, Any] | None) -> Signer | None:
    """Enforce this machine's policy on an engine whose plan has the hash that its sidecar names.

    Args:
        engine: the plan's path.
        sidecar: everything in the sidecar but the seal.
        seal: the seal.

    Returns:
        Who signed the bundle that it was built from; None as for `check_bundle`.

    Raises:
        ArtefactError: the policy requires a seal of this device and an accepted signer behind it, and this is not so.
        InputError: the policy cannot be read.
    """
    policy = policy_in_force()
    if policy is None:
        return None
    try:
        return _check_seal(engine, sidecar, seal, policy)
    except ArtefactError:
        if policy.required:
            raise
        return None


def _check_seal(
    engine: Path, sidecar: Mapping[str, Any], seal: Mapping[str, Any] | None, policy: Policy
) -> Signer:
    build_here = "build it here, from a signed bundle: agp-edge build-engine BUNDLE"
    if seal is None:
        raise ArtefactError(
            f"engine {engine} has no seal of this device, and policy {policy.path} accepts only sealed ones",
            build_here,
        )
    check_seal(read_device_key(policy.device_key), sidecar, seal, engine)
    signer = Signer.from_dict(seal["signer"])
    reason = refusal(policy, signer)
    if reason is not None:
        raise ArtefactError(
            f"engine {engine} was built from a bundle signed by {signer.describe()}, "
            f"which policy {policy.path} does not accept: {reason}",
            build_here,
        )
    return signer


@dataclass(frozen=True)
class Standing:
    """How a bundle or an engine stands with this machine's policy: what `inspect` and `verify` print.

    Attributes:
        signer: who signed the bundle, or that which the engine was built from, as it says; None if nobody.
        policy: the policy's file; None without one.
        required: whether that policy refuses what it does not accept.
        accepted: whether the policy accepts it; None without one: then nothing was verified.
        reason: why not.
        engine: whether it is of an engine: then `signer` is of the bundle that it was built from.
    """

    signer: Signer | None
    policy: Path | None = None
    required: bool = False
    accepted: bool | None = None
    reason: str | None = None
    engine: bool = False

    def describe(self) -> str:
        """One line, for a person."""
        signed, unsigned = ("from a bundle signed", "no seal") if self.engine else ("signed", "not signed")
        who = f"{signed} by {self.signer.describe()}" if self.signer else unsigned
        if self.accepted is None:
            unchecked = "as it says itself: no policy on this machine says whom to believe"
            return f"{who}, {unchecked}" if self.signer else who
        if self.accepted:
            return f"{who}, accepted by policy {self.policy}"
        verdict = "refused" if self.required else "would be refused if required"
        return f"{who}, {verdict} by policy {self.policy}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `inspect` and `verify`."""
        return {
            "signer": self.signer.to_dict() if self.signer else None,
            "policy": str(self.policy) if self.policy else None,
            "required": self.required,
            "accepted": self.accepted,
            "reason": self.reason,
        }


def standing_of_bundle(bundle: Path, hashes: Mapping[str, str]) -> Standing:
    """How a bundle stands with the policy; it is opened for nothing but to be looked at.

    Args:
        bundle, hashes: as for `check_bundle`.

    Raises:
        ArtefactError: there is no policy, and a signature that cannot be read, or that is of other files.
        InputError: the policy cannot be read.
    """
    policy = policy_in_force()
    if policy is None:
        claim = read_claim(bundle)
        if claim is None:
            return Standing(None)
        # Without a key nobody can say that it is good, but a stale one can be told.
        check_files(claim, hashes)
        return Standing(claim.signer)
    signer = None
    try:
        claim = read_claim(bundle)
        signer = claim.signer if claim else None
        signer = _verify(bundle, hashes, policy)
    except (ArtefactError, MissingExtraError) as error:
        return Standing(signer, policy.path, policy.required, False, error.what)
    return Standing(signer, policy.path, policy.required, True)


def standing_of_engine(engine: Path, sidecar: Mapping[str, Any], seal: Mapping[str, Any] | None) -> Standing:
    """How an engine stands with the policy.

    Args:
        engine, sidecar, seal: as for `check_engine`.

    Raises:
        InputError: the policy cannot be read.
    """
    signer = Signer.from_dict(seal["signer"]) if seal else None
    policy = policy_in_force()
    if policy is None:
        return Standing(signer, engine=True)
    try:
        signer = _check_seal(engine, sidecar, seal, policy)
    except ArtefactError as error:
        return Standing(signer, policy.path, policy.required, False, error.what, engine=True)
    return Standing(signer, policy.path, policy.required, True, engine=True)
