"""The page of a report, section by section."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from agp_edge import __version__
from agp_edge.bundle import MANIFEST
from agp_edge.contact_sheet import Row
from agp_edge.datasets.base import Dataset
from agp_edge.engines.base import Session
from agp_edge.evaluation import METRICS, Evaluation, JudgedImage, VerdictCounts, count_verdicts
from agp_edge.files import sha256_file, write_bytes
from agp_edge.machine import describe_machine
from agp_edge.metrics import image_auroc
from agp_edge.report.charts import histogram, pro_chart, roc_chart
from agp_edge.report.markup import Markup, element, join
from agp_edge.report.pictures import Pictures, choose_hardest, picture_rows
from agp_edge.report.style import STYLE
from agp_edge.verdict import Judge, upper_bound_95

NO_NUMBER = "–"

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser may load for the page: nothing. A mistake of ours, or a file's name, cannot change that."""


def describe_subject(artefact: Path, name: str, session: Session, dataset: Dataset) -> dict[str, str]:
    """What is evaluated, for the page: artefact, data set, machine and versions.

    Paths are given by their last part: a report is passed on.

    Args:
        artefact: the run, bundle or engine; its hash tells two of one name apart.
        name: what it is, in words.
        session: it, opened.
        dataset: what it is evaluated on.
    """
    runtime = session.runtime
    # The record of a run or a bundle has the hash of everything else in it.
    records = [path for path in (artefact / MANIFEST, artefact / "run.json", artefact) if path.is_file()]
    machine = describe_machine()
    facts = {
        "artefact": name,
        "SHA-256": f"{sha256_file(records[0])[:12]}… of {records[0].name}" if records else None,
        "precision": session.precision,
        "frame": str(session.frame),
        "ran with": ", ".join(str(runtime[key]) for key in ("library", "device") if key in runtime) or None,
        "machine": ", ".join(str(machine[key]) for key in ("cpu", "machine") if machine[key]),
        "data set": dataset.root.resolve().name,
        "layout": dataset.layout,
        "versions": f"agp-edge {__version__}, numpy {np.__version__}, Python {platform.python_version()}",
    }
    return {key: value for key, value in facts.items() if value is not None}


def write_report(
    path: Path,
    evaluation: Evaluation,
    rows: Sequence[Row],
    *,
    title: str,
    facts: Mapping[str, str],
    thresholds: Mapping[str, float] | None = None,
    when: datetime | None = None,
) -> None:
    """Write the report as one HTML file; the arguments are those of `render_report`.

    Raises:
        InputError, DiskFullError: it cannot be written.
        MissingExtraError: OpenCV is not installed.
    """
    page = render_report(evaluation, rows, title=title, facts=facts, thresholds=thresholds, when=when)
    write_bytes(path, page.encode())


def render_report(
    evaluation: Evaluation,
    rows: Sequence[Row],
    *,
    title: str,
    facts: Mapping[str, str],
    thresholds: Mapping[str, float] | None = None,
    when: datetime | None = None,
) -> str:
    """The report as one HTML page that carries everything it shows, and fetches nothing.

    Args:
        evaluation: what was measured.
        rows: pictures of the images that `choose_hardest` takes, as `load_rows` gives them; others are left out.
        title: what was evaluated, in a few words.
        facts: what else is to be known of it, as `describe_subject` gives it.
        thresholds: class -> the score above which an image of it is NG; a class without one has no verdicts.
        when: the date on the page; now by default.
    """
    page = _Page(evaluation, rows, dict(thresholds or {}))
    moment = (when or datetime.now(timezone.utc)).astimezone(timezone.utc)
    n_images = len(evaluation.images)
    line = f"{n_images} test images, {_number(len(evaluation.classes), 'class', 'classes')}"
    header = element(
        "header",
        element("p", "Evaluation", class_="kicker"),
        element("h1", title),
        element(
            "p", f"Anomaly detection on {facts['data set']}: " if "data set" in facts else None, line, ", ",
            element("time", f"{moment:%Y-%m-%d %H:%M} UTC", datetime=moment.isoformat(timespec="seconds")), class_="sub",
        ),
    )  # fmt: skip
    body = element(
        "main",
        header,
        page.summary(),
        page.metrics(),
        page.verdicts(),
        *[page.of_class(i, name) for i, name in enumerate(evaluation.classes)],
        _facts({**facts, "date": moment.isoformat(timespec="seconds")}),
        page.meaning(),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", f"Evaluation of {title}"),
        # Ours, without a character that would have to be escaped.
        Markup(f"<style>{STYLE}</style>"),
    )
    return f"<!DOCTYPE html>\n{_html(head, element('body', body))}\n"


def _html(head: Markup, body: Markup) -> Markup:
    return element("html", head, "\n", body, lang="en")


class _Page:
    """The sections that need the whole evaluation."""

    def __init__(self, evaluation: Evaluation, rows: Sequence[Row], thresholds: dict[str, float]) -> None:
        self.evaluation = evaluation
        self.rows = {(row.class_name, row.name): row for row in rows}
        self.thresholds = thresholds
        self.images: dict[str, list[JudgedImage]] = {name: [] for name in evaluation.classes}
        for image in evaluation.images:
            self.images[image.class_name].append(image)
        self.counts = {
            name: count_verdicts(images, Judge([], threshold=thresholds[name]))
            for name, images in self.images.items()
            if name in thresholds
        }

    def summary(self) -> Markup:
        """The few numbers that one looks for first."""
        mean, several = self.evaluation.mean, len(self.evaluation.classes) > 1
        of = "mean over classes" if several else "of the one class"
        cards = [
            _card("Image AUROC", _share(mean.values["image_auroc"]), of),
            _card("Pixel AUROC", _share(mean.values["pixel_auroc"]), of),
            _card(f"AUPRO to {self.evaluation.aupro_limit:g}", _share(mean.values["aupro"]), of),
        ]
        if self.counts:
            good, rejected, defect, missed = self._totals()
            cards.append(_card("False alarms", f"{rejected} of {good}", "good images called NG"))
            cards.append(_card("Misses", f"{missed} of {defect}", "defects called OK"))
        else:
            cards.append(_card("Verdicts", NO_NUMBER, "no threshold: scores alone"))
        return element("div", *cards, class_="cards")

    def metrics(self) -> Markup:
        """The table of metrics, the lowest of each column marked."""
        classes = self.evaluation.classes
        lowest = {
            key: min((v for c in classes.values() if (v := c.values[key]) is not None), default=None)
            for key in METRICS
        }
        rows = []
        for i, (name, metrics) in enumerate(classes.items()):
            cells = [
                element("td", _share(v), class_="low" if len(classes) > 1 and v == lowest[key] and v is not None else None)
                for key in METRICS for v in (metrics.values[key],)
            ]  # fmt: skip
            link = element("a", name, href=f"#class-{i}")
            rows.append(_row(link, metrics.n_good, metrics.n_defect, *cells))
        mean = self.evaluation.mean
        foot = element(
            "tfoot",
            _row("mean", mean.n_good, mean.n_defect, *[element("td", _share(mean.values[key])) for key in METRICS]),
        ) if len(classes) > 1 else None  # fmt: skip
        notes = [f"AUPRO to a false-positive rate of {self.evaluation.aupro_limit:g}."]
        if len(classes) > 1:
            notes.append("The mean is over classes, unweighted; underlined: the lowest of its column.")
        if mean.n_unmasked:
            notes.append(f"{mean.n_unmasked} defect images without a mask are left out of the pixel metrics.")
        if any(v is None for c in classes.values() for v in c.values.values()):
            notes.append(
                f"{NO_NUMBER}: the test images allow no number (only good, only defects, or no masks)."
            )
        table = _table(("class", "good", "defect", *METRICS.values()), rows, foot)
        return element(
            "section", element("h2", "Metrics"), table, element("p", " ".join(notes), class_="note")
        )

    def verdicts(self) -> Markup | None:
        """What the thresholds do to the test images; nothing without any."""
        if not self.counts:
            return None
        heads = ("class", "threshold", "false alarms", "rate", "misses", "rate")
        rows = [
            _row(
                name, f"{c.threshold:.4g}",
                f"{c.false_rejects} of {c.n_good}", _rate(c.false_rejects, c.n_good),
                f"{c.misses} of {c.n_defect}", _rate(c.misses, c.n_defect),
            )
            for name, c in self.counts.items()
        ]  # fmt: skip
        good, rejected, defect, missed = self._totals()
        foot = None
        if len(rows) > 1:
            foot = element(
                "tfoot",
                _row(
                    "all", "", f"{rejected} of {good}", _rate(rejected, good),
                    f"{missed} of {defect}", _rate(missed, defect),
                ),
            )  # fmt: skip
        note = "A false alarm is a good image above the threshold, a miss a defect at or below it."
        if good:
            note += f" With 95 % confidence the true rate of false alarms is below {upper_bound_95(rejected, good):.1%}"
            note += f", that of misses below {upper_bound_95(missed, defect):.1%}," if defect else ","
            note += " as far as these images stand for all others."
        table = _table(heads, rows, foot)
        return element("section", element("h2", "Verdicts"), table, element("p", note, class_="note"))

    def of_class(self, number: int, name: str) -> Markup:
        """One class: its charts, its kinds of defect, its hardest images."""
        images, metrics = self.images[name], self.evaluation.classes[name]
        n = f"{_number(metrics.n_good, 'good image', 'good images')}, {_number(metrics.n_defect, 'defect', 'defects')}"
        return element(
            "section",
            element("h2", name, " ", element("small", n)),
            self._charts(name),
            self._kinds(images, self.thresholds.get(name)),
            self._hardest(name),
            id=f"class-{number}",
            class_="class",
        )

    def meaning(self) -> Markup:
        """What the numbers are, for whoever the page is passed on to."""
        limit = f"{self.evaluation.aupro_limit:g}"
        terms = {
            "I-": "of images: one score each, the highest value of its anomaly map.",
            "P-": "of pixels: all pixels of a class together, good images among them, at the map's resolution.",
            "AUROC": "the chance that a defect scores above a good one; a half is guessing.",
            "AP": "average precision, the area under precision over recall, as a sum of steps.",
            "F1": "at its best threshold, which is taken from the labels: what no real threshold can beat.",
            "AUPRO": (
                "the mean share of each defect region that is found, every region alike whatever its size, over the "
                f"false-positive rate of pixels up to {limit}, divided by {limit}."
            ),
        }  # fmt: skip
        return element("section", element("h2", "What the numbers mean"), _definitions(terms))

    def _totals(self) -> tuple[int, int, int, int]:
        counts = self.counts.values()
        return (
            sum(c.n_good for c in counts), sum(c.false_rejects for c in counts),
            sum(c.n_defect for c in counts), sum(c.misses for c in counts),
        )  # fmt: skip

    def _charts(self, name: str) -> Markup:
        images, values = self.images[name], self.evaluation.classes[name].values
        good = [image.score for image in images if image.sample.good]
        defect = [image.score for image in images if not image.sample.good]
        threshold, counts = self.thresholds.get(name), self.counts.get(name)
        legend = [
            _key("swatch good", f"good, upwards, n = {len(good)}"),
            _key("swatch defect", f"defect, downwards, n = {len(defect)}"),
        ]
        shown = [_chart("Scores", histogram(good, defect, threshold), legend)]
        curves = self.evaluation.curves.get(name)
        if curves is not None and (curves.image_roc or curves.pixel_roc):
            legend = []
            if curves.image_roc:
                legend.append(_key("line image", f"images, AUROC {_share(values['image_auroc'])}"))
            if curves.pixel_roc:
                legend.append(_key("line pixel", f"pixels, AUROC {_share(values['pixel_auroc'])}"))
            point = _operating_point(counts)
            if point:
                legend.append(_key("ring", "at the threshold"))
            shown.append(_chart("ROC", roc_chart(curves.image_roc, curves.pixel_roc, point), legend))
        if curves is not None and curves.pro:
            limit = self.evaluation.aupro_limit
            legend = [_key("swatch area", f"AUPRO to {limit:g}: {_share(values['aupro'])}")]
            shown.append(_chart("PRO", pro_chart(curves.pro, limit), legend))
        return element("div", *shown, class_="charts")

    def _kinds(self, images: Sequence[JudgedImage], threshold: float | None) -> Markup | None:
        """Each kind of defect against the good images; nothing where there is one kind alone."""
        good = [image.score for image in images if image.sample.good]
        kinds: dict[str, list[float]] = {}
        for image in images:
            if not image.sample.good:
                kinds.setdefault(image.sample.label, []).append(image.score)
        if len(kinds) < 2:
            return None
        rows = []
        for kind, scores in sorted(kinds.items()):
            auroc = image_auroc([*scores, *good], [*[True] * len(scores), *[False] * len(good)])
            found = sum(not score <= threshold for score in scores) if threshold is not None else None
            cells = [] if found is None else [f"{found} of {len(scores)}"]
            rows.append(
                _row(kind, len(scores), f"{min(scores):#.4g} to {max(scores):#.4g}", _share(auroc), *cells)
            )
        heads = ("kind of defect", "n", "scores", "I-AUROC", *(["found"] if threshold is not None else []))
        return _table(heads, rows)

    def _hardest(self, name: str) -> Markup | None:
        threshold, counts = self.thresholds.get(name), self.counts.get(name)
        chosen = [
            (image, self.rows[name, image.sample.name])
            for image in choose_hardest(self.images[name])
            if (name, image.sample.name) in self.rows
        ]
        if not chosen:
            return None
        pictures, (low, high) = picture_rows([row for _, row in chosen], threshold)
        parts: list[Markup] = []
        for good in (False, True):
            cases = [
                _case(image, shown, threshold)
                for (image, _), shown in zip(chosen, pictures, strict=True)
                if image.sample.good == good
            ]
            if cases:
                parts += [
                    element("h3", _heading(good, counts)),
                    element("div", *cases, class_="cases"),
                ]
        caption = f"Frame, anomaly map, truth. These maps share one scale, from {low:#.3g} (dark) to {high:#.3g} (bright)."
        if threshold is not None:
            caption += " On the frame, a line surrounds what lies above the threshold."
        return join(*parts, element("p", caption, class_="note"))


def _heading(good: bool, counts: VerdictCounts | None) -> str:
    if counts is None:
        return "Good images with the highest scores" if good else "Defects with the lowest scores"
    wrong, n = (counts.false_rejects, counts.n_good) if good else (counts.misses, counts.n_defect)
    if good:
        return (
            f"Worst false alarms: {wrong} of {n} good images"
            if wrong
            else f"Closest to a false alarm: none of {n} good images is one"
        )
    return (
        f"Worst misses: {wrong} of {n} defects" if wrong else f"Closest to a miss: none of {n} defects is one"
    )


def _case(image: JudgedImage, shown: Pictures, threshold: float | None) -> Markup:
    """One image three times, with what was said of it."""
    good, (width, height) = image.sample.good, shown.size_wh

    def picture(source: str, what: str) -> Markup:
        return element(
            "img", src=source, alt=f"{what} of {image.sample.name}", width=str(width), height=str(height)
        )

    truth = picture(shown.truth, "truth") if shown.truth else element("span", "no mask", class_="empty")
    words: list[Markup | str] = [element("b", image.sample.label), f" score {image.score:#.4g}"]
    if threshold is not None:
        wrong = (image.score <= threshold) != good
        verdict = ("false alarm" if good else "missed") if wrong else "OK" if good else "found"
        words = [element("span", verdict, class_="chip wrong" if wrong else "chip"), " ", *words]
        if threshold > 0:
            words.append(f", {image.score / threshold:.0%} of the threshold")
    tiles = element(
        "div", picture(shown.frame, "frame"), picture(shown.anomaly_map, "anomaly map"), truth, class_="tiles"
    )
    caption = element("figcaption", *words, element("span", image.sample.name, class_="name"))
    return element("figure", tiles, caption, class_="case")


def _operating_point(counts: VerdictCounts | None) -> tuple[float, float] | None:
    if counts is None or not (counts.n_good and counts.n_defect):
        return None
    return counts.false_rejects / counts.n_good, 1 - counts.misses / counts.n_defect


def _chart(title: str, chart: Markup, legend: Sequence[Markup]) -> Markup:
    caption = element("figcaption", element("b", title), element("span", *legend, class_="legend"))
    return element("figure", caption, chart, class_="chart")


def _key(kind: str, text: str) -> Markup:
    return element("span", element("i", class_=kind), text, class_="key")


def _card(title: str, value: str, below: str) -> Markup:
    return element(
        "div", element("span", title), element("strong", value), element("small", below), class_="card"
    )


def _facts(facts: Mapping[str, str]) -> Markup:
    return element("section", element("h2", "What was evaluated"), _definitions(facts))


def _definitions(terms: Mapping[str, str]) -> Markup:
    pairs = [join(element("dt", term), element("dd", text)) for term, text in terms.items()]
    return element("dl", *pairs)


def _table(heads: Sequence[str], rows: Sequence[Markup], foot: Markup | None = None) -> Markup:
    head = element("thead", element("tr", *[element("th", text, scope="col") for text in heads]))
    table = element("table", head, element("tbody", *rows), foot)
    # It scrolls by itself on a narrow screen; reached with the keyboard too.
    return element("div", table, class_="scroll", tabindex="0")


def _row(name: str | Markup, *cells: Markup | str | int) -> Markup:
    made = [cell if isinstance(cell, Markup) else element("td", str(cell)) for cell in cells]
    return element("tr", element("th", name, scope="row"), *made)


def _share(value: float | None) -> str:
    return NO_NUMBER if value is None else f"{value:.3f}"


def _rate(events: int, n: int) -> str:
    return f"{events / n:.1%}" if n else NO_NUMBER


def _number(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
