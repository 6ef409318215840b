"""Frames on their way through the engine, and what it says of them."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agp_edge.engines.slots import Slot
from agp_edge.judging import JudgingEngine
from agp_edge.sinks import Judgement
from agp_edge.sources.base import Frame
from agp_edge.stream.feed import STAGES, View
from agp_edge.verdict import Judge, Region, decide, find_regions


@dataclass(frozen=True)
class Item:
    """A frame on its way to a verdict.

    Attributes:
        view: of which source and region.
        frame: the source's whole frame.
        handed_ns: since when it waited (`time.monotonic_ns`).
        part: the part's id.
    """

    view: View
    frame: Frame
    handed_ns: int
    part: str | None


@dataclass(frozen=True)
class Batch:
    """Frames in the engine.

    Attributes:
        slot: where.
        items: the frames.
        pixels: what the engine sees of each, [H, W, C] uint8.
        begin, ready: when they were taken, and when the engine had them (`time.monotonic_ns`).
    """

    slot: Slot
    items: list[Item]
    pixels: list[NDArray[np.uint8]]
    begin: int
    ready: int


def judge_batch(
    batch: Batch,
    scores: NDArray[np.float32],
    computed: int,
    engine: JudgingEngine,
    judge: Judge,
    *,
    min_area: int,
    all_maps: bool,
) -> list[Judgement]:
    """Verdicts from what the engine says of a batch.

    Args:
        batch: its slot has computed.
        scores: [N] float32.
        computed: when they were there (`time.monotonic_ns`).
        engine: whose slot it is.
        judge: has the threshold that holds now.
        min_area: pixels; a region below it makes no frame NG.
        all_maps: bring the maps of OK frames too.
    """
    spec = engine.session.frame
    size = (spec.width, spec.height)
    judgements = []
    for i, item in enumerate(batch.items):
        frame, roi, mask = item.frame, item.view.roi, item.view.mask
        score = float(scores[i])
        verdict = judge.verdict(score)
        regions: list[Region] = []
        # A map is brought from the engine only for those who look at it.
        anomaly_map = None
        by_map = mask is not None or min_area > 0
        if all_maps or verdict == "NG" or by_map:
            # Its own: sinks look at it when the slot has been filled again.
            anomaly_map = batch.slot.anomaly_map()[i].copy()
        if anomaly_map is not None and by_map:
            cells = None if mask is None else mask.cells(anomaly_map.shape)
            verdict, score, regions = decide(anomaly_map, judge.threshold, size, cells, min_area)
        elif anomaly_map is not None and verdict == "NG":
            regions = find_regions(anomaly_map, judge.threshold, size)
        p_value = judge.p_value(score)
        # A sensor's clock may be a little ahead of ours.
        captured = min(frame.captured_ns, item.handed_ns)
        marks = (captured, item.handed_ns, batch.begin, batch.ready, computed, time.monotonic_ns())
        spans = [(after - before) / 1e6 for before, after in itertools.pairwise(marks)]
        judgements.append(
            Judgement(
                pixels=batch.pixels[i],
                anomaly_map=anomaly_map,
                wall_s=frame.wall_s,
                clock=frame.clock,
                source=frame.source,
                frame=frame.number,
                verdict=verdict,
                score=score,
                threshold=judge.threshold,
                p_value=p_value,
                regions=regions,
                latency_ms=dict(zip(STAGES, [*spans, sum(spans)], strict=True)),
                engine=engine.id,
                part=item.part,
                roi=None if roi is None else (roi.name, roi.box),
                file=frame.file,
            )
        )
    return judgements
