"""The bundle: the only contract between the host that trains and the device that runs.

A folder, read strictly: every file is named in `manifest.json` with its hash, and nothing else is there.

    manifest.json          versions, hashes, frame size, layers, splits, what each artefact measured
    model.fp32.onnx        uint8 [N, H, W, C] frames in, `score` [N] and `anomaly_map` [N, h, w] out
    model.fp16.onnx        the same with a half-precision core
    model.int8.onnx        the same with Q/DQ, once calibrated
    frames/*.png           the reference frames of the export; the held-out good frames of gate and threshold
    model.sig              once signed: by whom; the one file that the manifest does not name

Where what is:

    manifest.py    what `manifest.json` says
    schema.py      the published JSON Schema, and the reader that holds a manifest against it
    folder.py      reading: verification of every file, graphs, frames
    onnx_file.py   a look into a graph before a runtime sees it
    writing.py     writing, whole or not at all
    splits.py      how good frames are divided
    kinds.py       what else a path may be, and what to say then
"""

from agp_edge.bundle.folder import Bundle, read_manifest
from agp_edge.bundle.kinds import (
    MANIFEST,
    describe_kind,
    is_bundle,
    refuse_half_bundle,
    refuse_inside_bundle,
    refuse_other_kind,
)
from agp_edge.bundle.manifest import (
    FORMAT,
    PARTS,
    VERSION,
    BundleFrame,
    FramePart,
    Manifest,
    Part,
    hash_of_hashes,
    model_file,
)
from agp_edge.bundle.onnx_file import check_onnx, check_onnx_bytes
from agp_edge.bundle.splits import SELF_TEST_FRAMES, split_held_out, split_trained
from agp_edge.bundle.writing import check_out, write_bundle

__all__ = [
    "FORMAT",
    "MANIFEST",
    "PARTS",
    "SELF_TEST_FRAMES",
    "VERSION",
    "Bundle",
    "BundleFrame",
    "FramePart",
    "Manifest",
    "Part",
    "check_onnx",
    "check_onnx_bytes",
    "check_out",
    "describe_kind",
    "hash_of_hashes",
    "is_bundle",
    "model_file",
    "read_manifest",
    "refuse_half_bundle",
    "refuse_inside_bundle",
    "refuse_other_kind",
    "split_held_out",
    "split_trained",
    "write_bundle",
]
