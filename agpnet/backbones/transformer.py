"""Any vision transformer that `transformers` loads: from a model id, or from a folder without a network."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from agp_edge.errors import InputError, MissingExtraError
from agpnet.backbones.base import Features

DEFAULT_INPUT_SIZE = 256
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TransformerBackbone(nn.Module):
    """Tokens and attention of a vision transformer.

    Args:
        model: a model whose hidden states are [N, prefix + patches, C]: ViT, DINO, DINOv2, DeiT, CLIP vision.
        layers: blocks whose tokens are taken, from 1; empty takes a quarter, half, three quarters and all of the depth.
        input_size: side of the input, pixels; a multiple of the patch; 0 takes 256, or the next multiple below.
        mean, std: of the normalisation the model was trained with, RGB.
        source: the id or folder it came from, for the record.

    Raises:
        InputError: a layer that the model has not, or a size that its patches do not divide.
    """

    norm = "layer"
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        model: nn.Module,
        layers: tuple[int, ...] = (),
        input_size: int = 0,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        source: str = "",
    ) -> None:
        super().__init__()
        config = cast(Any, model).config
        depth, patch = int(config.num_hidden_layers), int(config.patch_size)
        self.layers = layers or tuple(sorted({max(1, round(depth * q / 4)) for q in (1, 2, 3, 4)}))
        if max(self.layers) > depth:
            raise InputError(
                f"layers {list(self.layers)}: {source} has {depth} blocks", f"take layers from 1 to {depth}"
            )
        self.input_size = input_size or DEFAULT_INPUT_SIZE // patch * patch
        if self.input_size % patch:
            raise InputError(
                f"input_size {self.input_size} is no multiple of the patch of {patch} pixels of {source}",
                f"take {self.input_size // patch * patch or patch}",
            )
        self.model = model
        self.grid = (self.input_size // patch, self.input_size // patch)
        self.width = int(config.hidden_size)
        self.source = source
        self.mean, self.std = tuple(mean), tuple(std)
        self.register_buffer("_mean", torch.tensor(self.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(self.std).reshape(1, 3, 1, 1), persistent=False)
        takes = inspect.signature(model.forward).parameters
        self._arguments = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}

    def extract(self, images: Tensor) -> Features:
        """Tokens of the chosen blocks, without CLS and registers; attention of CLS to the patches."""
        output = self.model(
            pixel_values=(images - self._mean) / self._std,
            output_hidden_states=True,
            output_attentions=True,
            **self._arguments,
        )
        patches = self.grid[0] * self.grid[1]
        tokens = [output.hidden_states[i][:, -patches:] for i in self.layers]
        attentions = [a for a in (output.attentions or ()) if a is not None]
        if not attentions or attentions[0].shape[-1] == patches:
            return Features(tokens, None)
        # [N, heads, 1 + T, 1 + T]: the first row is CLS; registers and other extra tokens stand before the patches.
        rows = torch.stack([a[:, :, 0, -patches:].mean(dim=1) for a in attentions])
        return Features(tokens, rows.mean(dim=0))

    def describe(self) -> dict[str, object]:
        """What a run keeps; the weights go beside it with `save`."""
        return {
            "kind": "transformer",
            "source": self.source,
            "layers": list(self.layers),
            "input_size": self.input_size,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def save(self, folder: Path) -> None:
        """Keep the model as `transformers` does (safetensors), so that a run needs nothing from elsewhere."""
        cast(Any, self.model).save_pretrained(folder)


def load_transformer(
    source: str, layers: tuple[int, ...] = (), input_size: int = 0, *, mean: Any = None, std: Any = None
) -> TransformerBackbone:
    """Load a vision transformer.

    Args:
        source: a model id as in `facebook/dino-vits16`, or a folder that `save_pretrained` wrote.
        layers, input_size: as `TransformerBackbone`.
        mean, std: of the normalisation; by default what the model's preprocessor says, else ImageNet's.

    Raises:
        MissingExtraError: `transformers` is not installed.
        InputError: it cannot be loaded, or is no vision transformer.
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
            model = transformers.AutoModel.from_pretrained(source, attn_implementation="eager")
            processor = _preprocessor(source)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if folder:
            hint = "give a folder with config.json and model.safetensors, as save_pretrained writes it"
        else:
            hint = "without a network give a folder: --backbone DIR (see docs/backbones.md), or --backbone filterbank"
        raise InputError(f"cannot load the backbone {source!r}: {reason}", hint) from error
    model = getattr(model, "vision_model", model)  # CLIP: the half that sees.
    needed = ("num_hidden_layers", "patch_size", "hidden_size")
    if not all(isinstance(getattr(model.config, name, None), int) for name in needed):
        raise InputError(
            f"the backbone {source!r} ({type(model).__name__}) is no vision transformer",
            "give one with patches, as facebook/dino-vits16",
        )
    return TransformerBackbone(
        model.eval(),
        layers,
        input_size,
        mean or processor.get("image_mean") or IMAGENET_MEAN,
        std or processor.get("image_std") or IMAGENET_STD,
        source,
    )


def _preprocessor(source: str) -> dict[str, Any]:
    """What the model's own preprocessor says; nothing where it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError:
        return {}
    return dict(settings)
