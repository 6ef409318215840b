"""Whose bundles and engines this machine opens: the policy, the signature of a bundle, the seal of an engine.

    policy.py      what the machine's policy file says
    pem.py         public keys and certificates, and their fingerprints, with the standard library alone
    signature.py   `model.sig`, in the OpenSSF Model Signing format: who signed what
    seal.py        the mark that this device leaves on the engines it builds
    opening.py     the one place where a policy is enforced, before a runtime sees a byte

Without a policy nothing here is asked for, and nothing beyond the standard library is imported.
"""

from agp_edge.trust.opening import (
    check_bundle,
    check_can_seal,
    check_engine,
    seal_engine,
    standing_of_bundle,
    standing_of_engine,
)
from agp_edge.trust.policy import Policy, policy_in_force, read_policy, use_policy
from agp_edge.trust.signature import SIGNATURE, Signer

__all__ = [
    "SIGNATURE",
    "Policy",
    "Signer",
    "check_bundle",
    "check_can_seal",
    "check_engine",
    "policy_in_force",
    "read_policy",
    "seal_engine",
    "standing_of_bundle",
    "standing_of_engine",
    "use_policy",
]
