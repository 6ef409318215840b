"""What pretrained networks share, and how `transformers` loads them: from a model id, or from a folder offline."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from agp_edge.errors import InputError, MissingExtraError
from agpnet.backbones.base import Features

DEFAULT_INPUT_SIZE = 256
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNUSED_WEIGHTS = ("pooler", "mask_token", "position_ids", "num_batches_tracked")
"""Parts of weights' names that a checkpoint may lack: what we take from a model does not depend on them."""


class PretrainedBackbone(nn.Module, ABC):
    """A frozen model of `transformers`, and what a run keeps of it.

    Args:
        model: the model, in evaluation mode and single precision.
        layers: indices into its hidden states, from 1.
        widths: channels of each of these layers.
        input_size: side of the input, pixels.
        cell: side of a token, pixels.
        combine: how layers become the target: `sum`, or `concat` for one beside another.
        mean, std: of the normalisation that the model was trained with, RGB.
        source: the id or folder it came from, for the record.

    Raises:
        InputError: layers of unlike widths are to be summed, or `combine` is neither.
    """

    kind: str
    norm = "layer"
    fold = 1
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[int],
        widths: Sequence[int],
        input_size: int,
        cell: int,
        combine: str,
        mean: Sequence[float],
        std: Sequence[float],
        source: str,
    ) -> None:
        super().__init__()
        if combine not in ("sum", "concat"):
            raise InputError(f"combine = {combine!r} is not sum or concat", "set combine to sum or concat")
        if combine == "sum" and len(set(widths)) > 1:
            raise InputError(
                f"layers {list(layers)} of {source} are {', '.join(map(str, widths))} channels wide and cannot be summed",
                "set combine to concat, or choose layers of one width",
            )
        self.model = model
        self.layers = tuple(layers)
        self.input_size = input_size
        self.grid = (input_size // cell, input_size // cell)
        self.combine = combine
        self.width = widths[0] if combine == "sum" else sum(widths)
        self.source = source
        self.mean, self.std = tuple(mean), tuple(std)
        self.register_buffer("_mean", torch.tensor(self.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(self.std).reshape(1, 3, 1, 1), persistent=False)

    @abstractmethod
    def extract(self, images: Tensor) -> Features:
        """See `agpnet.backbones.base.Backbone`."""

    def normalise_pixels(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in 0 to 1, as the model was trained to see them."""
        return (images - self._mean) / self._std

    def describe(self) -> dict[str, object]:
        """What a run keeps; the weights go beside it with `save`."""
        return {
            "kind": self.kind,
            "source": self.source,
            "layers": list(self.layers),
            "input_size": self.input_size,
            "combine": self.combine,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def save(self, folder: Path) -> None:
        """Keep the model as `transformers` does (safetensors), so that a run needs nothing from elsewhere."""
        cast(Any, self.model).save_pretrained(folder)


def check_layers(layers: Sequence[int], depth: int, source: str, what: str, detail: str = "") -> None:
    """Refuse layers that a model has not.

    Args:
        layers: as asked for, from 1.
        depth: how many there are.
        source, what: the model and its layers, for the message: `dino-vits16`, `blocks`.
        detail: what else helps to choose.

    Raises:
        InputError: one is below 1 or above the depth.
    """
    if min(layers) < 1 or max(layers) > depth:
        raise InputError(
            f"layers {list(layers)}: {source} has {depth} {what}", f"take layers from 1 to {depth}{detail}"
        )


def load_model(source: str) -> tuple[nn.Module, dict[str, Any]]:
    """Load the part of a model that sees, in single precision, and the settings of its preprocessor.

    Args:
        source: a model id as in `facebook/dino-vits16`, or a folder that `save_pretrained` wrote.

    Returns:
        The model in evaluation mode, and the settings of its preprocessor, empty where it has none.

    Raises:
        MissingExtraError: `transformers` is not installed.
        InputError: it cannot be loaded, or the checkpoint lacks weights.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MissingExtraError("transformers", "host", "a pretrained backbone") from error
    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with contextlib.suppress(ModuleNotFoundError):
        # Without a network the hub's client tells of every try; the one error below says it all.
        importlib.import_module("huggingface_hub.utils.logging").set_verbosity_error()
    folder = Path(source).is_dir()
    if not folder and "/" not in source and difflib.get_close_matches(source, ["filterbank"]):
        # The hub is not asked for what is a slip of the keyboard.
        raise InputError(f"there is no backbone {source!r}", "did you mean --backbone filterbank?")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = transformers.AutoConfig.from_pretrained(source)
            # CLIP and its like hold two models: the half that sees is loaded alone, and so is kept alone.
            config = getattr(config, "vision_config", None) or config
            # Fused attention does not tell its weights; A_prior is made of them.
            model, told = transformers.AutoModel.from_pretrained(
                source, config=config, attn_implementation="eager", output_loading_info=True
            )
            processor = _preprocessor(source)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if folder:
            hint = "give a folder with config.json and model.safetensors, as save_pretrained writes it"
        else:
            hint = "without a network give a folder: --backbone DIR (see docs/backbones.md), or --backbone filterbank"
        raise InputError(f"cannot load the backbone {source!r}: {reason}", hint) from error
    # `transformers` fills what is missing with random numbers; a random backbone is not a pretrained one.
    missing = sorted(n for n in told["missing_keys"] if not any(part in n for part in UNUSED_WEIGHTS))
    if missing:
        raise InputError(
            f"the checkpoint {source!r} lacks {len(missing)} weights of its {type(model).__name__}, {missing[0]} first",
            "give the whole checkpoint of a vision model, as save_pretrained writes it",
        )
    if "add_pooling_layer" in inspect.signature(type(model)).parameters:
        # Often absent from the checkpoint and then random; nothing is taken from it, and a run should not keep it.
        model.pooler = None
    return model.float().eval(), processor


def pixel_statistics(settings: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and spread, RGB in 0 to 1, that pictures were normalised with when the model was trained.

    Args:
        settings: of the model's preprocessor; where it is silent, ImageNet's are taken.
    """
    if settings.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean = tuple(settings.get("image_mean") or IMAGENET_MEAN)
    std = tuple(settings.get("image_std") or IMAGENET_STD)
    kind = str(settings.get("image_processor_type"))
    if settings.get("include_top", kind.startswith("EfficientNet")):
        # EfficientNet's preprocessor divides by its spread, the root of ImageNet's, twice.
        std = tuple(s * s for s in std)
    return mean, std


def _preprocessor(source: str) -> dict[str, Any]:
    """What the model's own preprocessor says; nothing where it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError:
        return {}
    return dict(settings)
