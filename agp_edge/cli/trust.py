"""sign, verify: who made it, is it whole, does this machine accept it."""

from __future__ import annotations

from pathlib import Path

import typer

from agp_edge.cli.console import note, progress_bar, say, write_json_result
from agp_edge.cli.options import JSON
from agp_edge.errors import InputError


def sign(
    path: Path | None = typer.Argument(None, metavar="X", help="A bundle."),
    key: Path | None = typer.Option(
        None,
        "--key",
        metavar="FILE",
        help="Private key, EC, PEM. If encrypted: $AGP_EDGE_KEY_PASSWORD, or asked.",
    ),
    certificate: Path | None = typer.Option(
        None, "--certificate", metavar="FILE", help="Sign as the subject of this certificate of the key."
    ),
    chain: list[Path] = typer.Option(
        [], "--chain", metavar="FILE", help="Certificates that vouch for it, the root last; repeatable."
    ),
    device_key: Path | None = typer.Option(
        None,
        "--device-key",
        metavar="FILE",
        help="Instead of signing, make the key with which this device seals its engines. Installers do it once.",
    ),
    json: str | None = JSON,
) -> None:
    """Sign a bundle in the OpenSSF Model Signing format, so that devices know whose it is.

    Example:

    \b
      agp-edge sign brick.bundle --key release.key
      agp-edge sign brick.bundle --key release.key --certificate release.pem --chain ca.pem
      agp-edge sign --device-key /var/lib/agp-edge/device.key
    """
    if device_key is not None:
        if path is not None or key is not None or certificate is not None or chain:
            raise InputError("--device-key makes a key and signs nothing", "give nothing else with it")
        from agp_edge.trust.seal import make_device_key

        name = make_device_key(device_key)
        say(f"{device_key}: key of this device, {name}", json)
        write_json_result(json, {"device_key": str(device_key), "device": name})
        return
    if path is None or key is None:
        missing = "a bundle" if path is None else "--key"
        raise InputError(f"{missing} is missing", "as in: agp-edge sign BUNDLE --key FILE")
    from agp_edge.cli.artefacts import kind_of
    from agp_edge.signing import sign_bundle

    kind = kind_of(path)
    if kind != "bundle":
        hint = "sign its bundle; build-engine seals what it builds from a signed one"
        raise InputError(f"{path} is no bundle but a{'n' * (kind == 'engine')} {kind}", hint)
    signed = sign_bundle(path, key, certificate, chain)
    say(signed.describe(), json)
    write_json_result(json, signed.to_dict())


def verify(
    path: Path = typer.Argument(..., metavar="X", help="A run, a bundle or an engine."),
    policy: Path | None = typer.Option(
        None,
        "--policy",
        metavar="FILE",
        help="Hold it against this policy; by default $AGP_EDGE_POLICY or /etc/agp-edge/policy.toml.",
    ),
    json: str | None = JSON,
) -> None:
    """Say whether a run, bundle or engine is whole, who signed it, and whether it passes its self-test.

    Example:

    \b
      agp-edge verify brick.bundle
      agp-edge verify brick.bundle --policy policy.toml
    """
    from agp_edge.cli.artefacts import kind_of, open_artefact, warn_if_interrupted
    from agp_edge.trust import standing_of_bundle, standing_of_engine, use_policy

    kind = kind_of(path)
    if kind == "run":
        warn_if_interrupted(path)
    checks = ["every file is there and has its hash"]
    standing = bundle = sidecar = None
    with use_policy(policy):
        if kind == "bundle":
            from agp_edge.bundle import Bundle

            bundle = Bundle(path)
            standing = standing_of_bundle(path, bundle.hashes)
        elif kind == "engine":
            from agp_edge.engines.sidecar import read_sidecar

            sidecar = read_sidecar(path)
            standing = standing_of_engine(path, sidecar.unsealed, sidecar.seal)
        session, normal, name = open_artefact(path)
        with session:
            if standing is not None:
                checks.append(standing.describe())
            checks.append("it loads, and takes the frames it says")
            if sidecar is not None and sidecar.self_test is not None:
                from agp_edge.engines.self_test import check_engine_self_test

                frames = check_engine_self_test(session, sidecar)
                checks.append(f"self-test: {frames} reference frames score as where it was built")
            elif sidecar is not None:
                note(
                    f"no self-test: {path} was not run where it was built, or built by an earlier version; "
                    "run: agp-edge build-engine BUNDLE"
                )
            if bundle is not None:
                from agp_edge.engines.builder import check_scores, check_self_test

                check_self_test(bundle)
                frames = sum(frame.self_test for frame in bundle.manifest.frames)
                if frames:
                    checks.append(f"self-test: {frames} frames score as where it was made")
                    with progress_bar("verify") as progress:
                        scored = check_scores(bundle, progress)
                    if scored:
                        names = ", ".join(bundle.manifest.precisions)
                        checks.append(f"{names}: {scored} good frames score as the manifest says")
                else:
                    note("no self-test: the bundle is not calibrated; run: agp-edge calibrate BUNDLE DATA")
    say(f"{name}: good\n" + "\n".join(f"  {line}" for line in checks), json)
    result = {
        "path": str(path), "kind": kind, "good": True, "checks": checks, "normal_scores": len(normal),
        "trust": standing.to_dict() if standing else None,
    }  # fmt: skip
    write_json_result(json, result)
