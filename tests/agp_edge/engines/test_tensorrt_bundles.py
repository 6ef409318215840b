"""Whole bundles through TensorRT-RTX, ahead of time: the sample data's filters, and a small vision transformer.

What is built proves that the graphs parse and compile, for one GPU and for several. It proves nothing about a plan that runs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agp_edge.bundle import Bundle
from agp_edge.datasets import load_dataset
from agp_edge.engines.base import Backend, BuildOptions
from agp_edge.engines.builder import build_engine
from agp_edge.frame import GRAPHS, Precision
from agpnet.config import make_config
from agpnet.training import train
from benchmarks.int8 import save_vit
from calib.calibrate import calibrate
from export.onnx_export import export_run

SMALL_VIT = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip
RANDOM_WEIGHTS = "what random weights see is nothing that a gate could keep"


@pytest.fixture(scope="module")
def vit_bundle(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated bundle over a ViT with random weights. Do not write."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("vit")
    config = make_config(
        backbone=str(save_vit(folder / "vit-small", SMALL_VIT)), layers=[1, 2], input_size=64, decoder_blocks=1,
        decoder_heads=3, steps=2, batch_size=4,
    )  # fmt: skip
    dataset = load_dataset(sample_data)
    train(dataset, config, folder / "run")
    bundle = export_run(folder / "run", folder / "vit.bundle")
    return calibrate(bundle.path, dataset, accept=RANDOM_WEIGHTS).bundle.path


@pytest.mark.parametrize("targets", [("8.6",), ("8.0", "8.9", "12.0")], ids="-".join)
@pytest.mark.parametrize("precision", GRAPHS)
@pytest.mark.parametrize("network", ["calibrated_bundle", "vit_bundle"])
def test_a_bundle_is_built_in_every_precision_for_one_gpu_and_for_several(
    rtx: Backend,
    network: str,
    precision: Precision,
    targets: tuple[str, ...],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    bundle = Bundle(request.getfixturevalue(network))
    made = build_engine(
        bundle,
        precision,
        rtx.name,
        options=BuildOptions(targets),
        save_engine=tmp_path / "part.engine",
    )
    sidecar = made.sidecar
    assert made.size_bytes > 100_000
    assert sidecar.device["compute_capabilities"] == list(targets)
    assert (sidecar.gate, sidecar.normal_scores, made.report) == (None, [], None), "it was built and not run"
    assert sidecar.layers is not None
    counts = sidecar.layers.counts
    products = {given for kind, given in counts if kind == "MATRIX_MULTIPLY"}
    # INT8 products stand between Q/DQ in single precision; those of attention, which have no weights, are in half.
    assert {"fp32": {"fp32"}, "fp16": {"fp16"}, "int8": {"fp32", "fp16"}}[precision] <= products
    assert precision != "fp32" or products == {"fp32"}
    quantised = len(bundle.manifest.calibration["int8"]["quantised"]) if precision == "int8" else 0
    assert sum(n for (kind, _), n in counts.items() if kind == "DEQUANTIZE") > quantised or not quantised
    assert (("QUANTIZE", "int8") in counts) == (precision == "int8")
