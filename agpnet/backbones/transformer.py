"""Vision transformers: the tokens of some blocks, and what the class token attends to."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn

from agp_edge.errors import InputError
from agpnet.backbones.base import Features
from agpnet.backbones.pretrained import (
    DEFAULT_INPUT_SIZE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PretrainedBackbone,
    check_layers,
)


class TransformerBackbone(PretrainedBackbone):
    """Tokens and attention of a plain vision transformer: one width, one grid of patches from first to last block.

    Covers ViT, DINO, DINOv2 and DINOv3 (with and without registers), DeiT, BEiT, and the seeing halves of CLIP and
    SigLIP. They differ in how many tokens stand before the patches, which is found by looking at what the model gives.

    Args:
        model: as `agpnet.backbones.pretrained.load_model` gives it.
        layers: blocks whose tokens are taken, from 1; empty takes a quarter, half, three quarters and all of the depth.
        input_size: side of the input, pixels; a multiple of the patch; 0 takes 256, or the next multiple below.
        combine: `sum`, `concat`, or `auto` for `sum`, as the paper has it.
        mean, std: of the normalisation the model was trained with, RGB.
        source: the id or folder it came from, for the record.

    Raises:
        InputError: a layer that the model has not, a size that its patches do not divide, or a model that gives
            something else than patches in their order and attention among them.
    """

    kind = "transformer"

    def __init__(
        self,
        model: nn.Module,
        layers: tuple[int, ...] = (),
        input_size: int = 0,
        combine: str = "auto",
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        source: str = "",
    ) -> None:
        config = cast(Any, model).config
        depth, patch, width = int(config.num_hidden_layers), int(config.patch_size), int(config.hidden_size)
        layers = layers or tuple(sorted({max(1, round(depth * q / 4)) for q in (1, 2, 3, 4)}))
        check_layers(layers, depth, source, "blocks")
        input_size = input_size or max(DEFAULT_INPUT_SIZE // patch, 1) * patch
        if input_size % patch:
            raise InputError(
                f"input_size {input_size} is no multiple of the patch of {patch} pixels of {source}",
                f"take {input_size // patch * patch or patch}",
            )
        super().__init__(
            model,
            layers,
            [width] * len(layers),
            input_size,
            patch,
            "sum" if combine == "auto" else combine,
            mean,
            std,
            source,
        )
        takes = inspect.signature(model.forward).parameters
        # Learned positions are for one size; by this the model brings them to another. Those that always do, or
        # whose positions are rotations, do not take it.
        self._arguments = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
        self._prefix = self._find_prefix(depth, width)

    def _run(self, images: Tensor) -> Any:
        return self.model(
            pixel_values=self.normalise_pixels(images),
            output_hidden_states=True,
            output_attentions=True,
            **self._arguments,
        )

    @torch.no_grad()
    def _find_prefix(self, depth: int, width: int) -> int:
        """How many tokens stand before the patches; found by changing one patch and looking for the token that moves.

        Raises:
            InputError: it is not the token in that patch's place, or shapes are not those of a plain transformer.
        """
        rows, columns = self.grid
        patch = self.input_size // columns
        images = torch.zeros(2, 3, self.input_size, self.input_size)
        images[1, :, :patch, -patch:] = 1.0  # The end of the first row.
        try:
            output = self._run(images)
        except (RuntimeError, ValueError, TypeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise self._not_plain(
                f"it fails on {self.input_size}x{self.input_size} pixels: {reason}"
            ) from error
        states, attentions = output.hidden_states, output.attentions
        tokens = states[0].shape[1]
        prefix = tokens - rows * columns
        if len(states) != depth + 1 or any(s.shape != (2, tokens, width) for s in states) or prefix < 0:
            raise self._not_plain(f"{rows * columns} patches do not stay as many tokens from block to block")
        moved = (states[0][1] - states[0][0]).abs().amax(dim=-1).nonzero().flatten().tolist()
        if moved != [prefix + columns - 1]:
            raise self._not_plain("its last tokens are not the patches, row by row")
        if not attentions or any(a is None or a.shape[-2:] != (tokens, tokens) for a in attentions):
            raise self._not_plain("it does not tell its attention (attn_implementation must be 'eager')")
        return int(prefix)

    def _not_plain(self, reason: str) -> InputError:
        return InputError(
            f"the backbone {self.source!r} ({type(self.model).__name__}) is no plain vision transformer: {reason}",
            "give one with patches and attention among all of them, as facebook/dino-vits16",
        )

    def extract(self, images: Tensor) -> Features:
        """Tokens of the chosen blocks without CLS and registers, and attention to the patches.

        Attention is that of CLS, the first token, mean over heads and all blocks; a model without CLS (SigLIP) has the
        attention that each patch receives, mean over queries too.
        """
        output = self._run(images)
        tokens = [output.hidden_states[i][:, self._prefix :] for i in self.layers]
        by_block = []
        for attention in output.attentions:  # [N, heads, prefix + T, prefix + T]
            heads = attention.mean(dim=1)
            by_block.append(heads[:, 0, self._prefix :] if self._prefix else heads.mean(dim=1))
        return Features(tokens, torch.stack(by_block).mean(dim=0))
