"""An artefact judged on labelled images: metrics per class, and their unweighted mean over classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.datasets.base import ClassData, Dataset, Sample
from agp_edge.datasets.images import read_frame, read_truth
from agp_edge.engines.base import Session
from agp_edge.engines.measure import Labelled
from agp_edge.errors import ArtefactError, InputError
from agp_edge.extras import import_cv2
from agp_edge.frame import FrameSpec
from agp_edge.gate import LabelledMetrics
from agp_edge.metrics import DEFAULT_AUPRO_LIMIT, Curve, PixelScores, ranking_metrics, roc_curve
from agp_edge.progress import Progress, silent
from agp_edge.verdict import Judge

METRICS = {
    "image_auroc": "I-AUROC", "image_ap": "I-AP", "image_f1_max": "I-F1",
    "pixel_auroc": "P-AUROC", "pixel_ap": "P-AP", "pixel_f1_max": "P-F1",
    "aupro": "AUPRO",
}  # fmt: skip
"""Key in the JSON -> head of its column."""

Truth = NDArray[np.bool_]
"""[h, w], true where a pixel is anomalous."""


@dataclass(frozen=True)
class JudgedImage:
    """A test image and what the artefact says of it.

    Attributes:
        class_name: its class.
        sample: the image.
        score: its anomaly score.
        anomaly_map: [h, w] float32 at the network's resolution; None once it is no longer needed.
    """

    class_name: str
    sample: Sample
    score: float
    anomaly_map: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ClassMetrics:
    """What was measured on one class.

    Attributes:
        values: the keys of `METRICS`, each in [0, 1], or None where the images allow no number.
        n_good, n_defect: test images.
        n_unmasked: defect images that the pixel metrics leave out: no mask, or none left at the map's resolution.
    """

    values: dict[str, float | None]
    n_good: int
    n_defect: int
    n_unmasked: int

    def to_dict(self) -> dict[str, Any]:
        """As `--json` gives it."""
        return {
            **self.values,
            "n_good": self.n_good,
            "n_defect": self.n_defect,
            "n_unmasked": self.n_unmasked,
        }


@dataclass(frozen=True)
class ClassCurves:
    """The curves behind the areas of one class, thinned for drawing; each None where its area is.

    Attributes:
        image_roc: of the images' scores.
        pixel_roc: of the pixels.
        pro: mean overlap of the regions, over the share of the normal pixels.
    """

    image_roc: Curve | None
    pixel_roc: Curve | None
    pro: Curve | None


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        classes: class -> its metrics.
        aupro_limit: the false-positive rate that AUPRO was integrated to.
        images: every test image; with maps only those that were asked to be kept.
        curves: class -> its curves, for a report.
    """

    classes: dict[str, ClassMetrics]
    aupro_limit: float
    images: list[JudgedImage]
    curves: dict[str, ClassCurves] = field(default_factory=dict)

    @property
    def mean(self) -> ClassMetrics:
        """Each metric's unweighted mean over the classes that have it; the sums of the counts."""
        every = list(self.classes.values())
        values: dict[str, float | None] = {}
        for key in METRICS:
            there = [value for c in every if (value := c.values[key]) is not None]
            values[key] = sum(there) / len(there) if there else None
        return ClassMetrics(
            values,
            sum(c.n_good for c in every),
            sum(c.n_defect for c in every),
            sum(c.n_unmasked for c in every),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `agp-edge evaluate`."""
        return {
            "classes": {name: metrics.to_dict() for name, metrics in self.classes.items()},
            "mean": self.mean.to_dict(),
            "aupro_limit": self.aupro_limit,
        }

    def describe(self) -> str:
        """A table of at most 80 columns, and a line for what it leaves out."""
        head = ("class", "good", "defect", *METRICS.values())
        rows = [_cells(name, metrics) for name, metrics in self.classes.items()]
        if len(rows) > 1:
            rows.append(_cells("mean", self.mean))
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

        def line(row: Sequence[str]) -> str:
            cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
            return "  ".join([row[0].ljust(widths[0]), *cells[1:]])

        lines = [line(head), "  ".join("-" * w for w in widths), *map(line, rows)]
        lines.append(
            f"AUPRO to a false-positive rate of {self.aupro_limit:g}. F1 at its best threshold: an oracle."
        )
        if self.mean.n_unmasked:
            lines.append(
                f"{self.mean.n_unmasked} defect images without a mask are left out of the pixel metrics."
            )
        if any(value is None for c in self.classes.values() for value in c.values.values()):
            lines.append("- : the test images allow no number (only good, only defects, or no masks).")
        return "\n".join(lines)


@dataclass(frozen=True)
class VerdictCounts:
    """What an artefact's own threshold does to the test images.

    Attributes:
        threshold: the score above which an image is NG.
        false_rejects, n_good: good images that are NG, of how many.
        misses, n_defect: defect images that are OK, of how many.
    """

    threshold: float
    false_rejects: int
    n_good: int
    misses: int
    n_defect: int

    def to_dict(self) -> dict[str, Any]:
        """As `--json` gives it."""
        return asdict(self)

    def describe(self) -> str:
        """One line for a person."""
        return (
            f"At the threshold {self.threshold:.6g}: {self.false_rejects} of {self.n_good} good images rejected, "
            f"{self.misses} of {self.n_defect} defects missed."
        )


KeepMaps = Callable[[Sequence[JudgedImage]], Iterable[JudgedImage]]
"""Chooses among the judged images of one class those whose maps are kept."""


def evaluate(
    session: Session,
    dataset: Dataset,
    *,
    aupro_limit: float = DEFAULT_AUPRO_LIMIT,
    progress: Progress = silent,
    keep: KeepMaps | None = None,
) -> Evaluation:
    """Judge every test image of a data set.

    Pixel metrics are taken at the map's own resolution, over the pooled pixels of a class: masks are brought
    there with nearest-neighbour sampling. Good images count as normal everywhere.

    Memory holds the maps of one class, 4 bytes a pixel, and little else that grows with them: 262 MB for 1000 images
    whose maps are 256x256, 4.2 GB at 1024x1024.

    Args:
        session: the artefact.
        dataset: labelled images, of the size that the artefact takes.
        aupro_limit: the false-positive rate to integrate AUPRO to.
        progress: told after each image.
        keep: chooses, class by class, the images whose maps are kept in the result.

    Raises:
        InputError: there are no test images, one cannot be read, has another size, or its mask has.
        ArtefactError: the artefact gives scores or maps that are not finite.
    """
    if not 0 < aupro_limit <= 1:
        raise InputError(f"an AUPRO limit of {aupro_limit:g} is no rate", "give one above 0, up to 1")
    with_tests = [data for data in dataset.classes if data.test]
    total = sum(len(data.test) for data in with_tests)
    if not total:
        raise InputError(
            f"data set {dataset.root} ({dataset.layout}) has no test images",
            "put labelled images beside the good ones: test/good and test/DEFECT, or a folder for each defect",
        )
    classes: dict[str, ClassMetrics] = {}
    curves: dict[str, ClassCurves] = {}
    images: list[JudgedImage] = []
    for data in with_tests:
        # In a function of its own: the maps of one class are gone before the next one begins.
        metrics, drawn, judged = _evaluate_class(
            session, data, aupro_limit, keep, progress, len(images), total
        )
        classes[data.name], curves[data.name] = metrics, drawn
        images += judged
    return Evaluation(classes, aupro_limit, images, curves)


def labelled_metrics(dataset: Dataset, progress: Progress = silent) -> Labelled | None:
    """What measures artefacts on a data set's labelled images for the gate; None where there are no defects.

    Args:
        dataset: its test images are read and nothing else of it.
        progress: told after each image.
    """
    if all(sample.good for data in dataset.classes for sample in data.test):
        return None

    def measured(session: Session) -> LabelledMetrics:
        found = evaluate(session, dataset, progress=progress)
        ranked = [c for c in found.classes.values() if c.values["image_auroc"] is not None]
        steps = [1 / (c.n_good * c.n_defect * len(ranked)) for c in ranked]
        values = found.mean.values
        return LabelledMetrics(values["image_auroc"], values["aupro"], max(steps, default=0.0))

    return measured


def merge(evaluations: Iterable[Evaluation]) -> Evaluation:
    """Several evaluations as one, as of a folder with a run for each class: the classes one after another.

    Raises:
        InputError: they share a class, or AUPRO was integrated to different limits.
        ValueError: there are none.
    """
    every = list(evaluations)
    if not every:
        raise ValueError("there is no evaluation to merge")
    limits = sorted({evaluation.aupro_limit for evaluation in every})
    if len(limits) > 1:
        raise InputError(
            f"AUPRO to the limits {', '.join(f'{limit:g}' for limit in limits)} has no mean",
            "evaluate them with one --aupro-limit",
        )
    merged = Evaluation({}, limits[0], [], {})
    for evaluation in every:
        for name in evaluation.classes:
            if name in merged.classes:
                raise InputError(
                    f"class {name} was evaluated twice: its images would count twice in the mean",
                    "evaluate each class once",
                )
        merged.classes.update(evaluation.classes)
        merged.curves.update(evaluation.curves)
        merged.images.extend(evaluation.images)
    return merged


def count_verdicts(images: Iterable[JudgedImage], judge: Judge) -> VerdictCounts:
    """Count right and wrong verdicts at a judge's threshold."""
    wrong, n = {True: 0, False: 0}, {True: 0, False: 0}
    for image in images:
        good = image.sample.good
        n[good] += 1
        wrong[good] += judge.verdict(image.score) != ("OK" if good else "NG")
    return VerdictCounts(judge.threshold, wrong[True], n[True], wrong[False], n[False])


def _judge(
    session: Session, data: ClassData, progress: Progress, done: int, total: int
) -> Iterator[tuple[JudgedImage, NDArray[np.float32], Truth | None]]:
    """Each test image of a class, its map, and its truth at the map's resolution, None if it has no use."""
    size = session.frame.batch
    for start in range(0, len(data.test), size):
        batch = data.test[start : start + size]
        result = session.infer(np.stack([read_frame(sample, session.frame) for sample in batch]))
        for sample, score, anomaly_map in zip(batch, result.score, result.anomaly_map, strict=True):
            if not (np.isfinite(score) and np.isfinite(anomaly_map).all()):
                raise ArtefactError(
                    f"the artefact gives numbers that are not finite for {sample.name} (score {score})",
                    "hold it against its reference (agp-edge compare), then build or train it again",
                )
            # A copy: a map may be a view of a buffer that the session writes again.
            own = np.array(anomaly_map, np.float32)
            image = JudgedImage(data.name, sample, float(score), own)
            yield image, own, _truth_at(sample, session.frame, own.shape)
            done += 1
            progress(done, total)


def _truth_at(sample: Sample, frame: FrameSpec, shape: tuple[int, int]) -> Truth | None:
    """A sample's truth at a map's resolution; None for a defect without a mask, or too small to be left there."""
    truth = read_truth(sample, frame)
    if truth is None or truth.shape == shape:
        return truth
    cv2 = import_cv2("resizing masks")
    # Plain INTER_NEAREST takes corners of pixels, which shifts a mask by up to half a pixel of the map.
    resized: NDArray[np.uint8] = cv2.resize(
        truth.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT
    )
    return resized > 0 if sample.good or resized.any() else None


def _evaluate_class(
    session: Session,
    data: ClassData,
    aupro_limit: float,
    keep: KeepMaps | None,
    progress: Progress,
    done: int,
    total: int,
) -> tuple[ClassMetrics, ClassCurves, list[JudgedImage]]:
    """Judge and measure one class; of the images' maps only those to keep are given on."""
    judged: list[JudgedImage] = []
    pixels = PixelScores()
    n_unmasked = 0
    for image, anomaly_map, truth in _judge(session, data, progress, done, total):
        judged.append(image)
        if truth is None:
            n_unmasked += 1
        else:
            pixels.add(anomaly_map, truth)
    good = [image.score for image in judged if image.sample.good]
    defect = [image.score for image in judged if not image.sample.good]
    image_level, pixel_level, pro = ranking_metrics(defect, good), pixels.ranking(), pixels.pro_curve()
    values = {
        "image_auroc": image_level.auroc,
        "image_ap": image_level.average_precision,
        "image_f1_max": image_level.f1_max,
        "pixel_auroc": pixel_level.auroc,
        "pixel_ap": pixel_level.average_precision,
        "pixel_f1_max": pixel_level.f1_max,
        "aupro": pro.area(aupro_limit) if pro else None,
    }
    curves = ClassCurves(
        _thinned(roc_curve(defect, good)), _thinned(pixels.roc_curve()), _thinned(pro, aupro_limit)
    )
    kept = {image.sample.name for image in keep(judged)} if keep else set()
    images = [i if i.sample.name in kept else replace(i, anomaly_map=None) for i in judged]
    return ClassMetrics(values, len(good), len(defect), n_unmasked), curves, images


def _thinned(curve: Curve | None, upto: float = 1.0) -> Curve | None:
    return curve.thinned(upto=upto) if curve else None


def _cells(name: str, metrics: ClassMetrics) -> tuple[str, ...]:
    """A row of the table: with a name of at most 13 characters it fits 80 columns."""
    short = name if len(name) <= 13 else name[:12] + "…"
    numbers = ("-" if (value := metrics.values[key]) is None else f"{value:.3f}" for key in METRICS)
    return short, str(metrics.n_good), str(metrics.n_defect), *numbers
