"""The report as a page: well formed, complete, safe whatever a class is called, and shown by a real browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.contact_sheet import load_rows
from agp_edge.datasets import load_dataset
from agp_edge.datasets.base import Sample
from agp_edge.datasets.images import write_png
from agp_edge.engines import open_engine
from agp_edge.evaluation import Evaluation, JudgedImage, evaluate
from agp_edge.metrics import Curve
from agp_edge.report import choose_hardest, describe_subject, render_report, write_report
from agp_edge.report.charts import BOTTOM, LEFT, RIGHT, TOP, histogram, pro_chart, roc_chart
from agp_edge.report.markup import VOID, Markup, element, join

WHEN = datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
HOSTILE = '<script>alert("x")&<img src=q onerror=e>'
"""A name that a folder may have."""


class Page(HTMLParser):
    """Reads a page strictly: every element is closed where it belongs, every id is there once.

    Attributes:
        found: (element, attributes) in order.
        text: all text outside of the style sheet.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []
        ids = [a["id"] for _, a in self.found if "id" in a]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]

    def classed(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.found if name in (a.get("class") or "").split()]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes for `tiny_engine` (threshold 0.4): a bright good image, a faint defect, one without a mask."""
    root = tmp_path / "parts"
    for name in ("bolt", HOSTILE):
        for label, spots in (("good", (0.2, 0.25, 0.5)), ("dent", (0.8, 0.3)), ("scratch", (0.7,))):
            for i, spot in enumerate(spots):
                pixels = np.full((48, 64, 3), 51, np.uint8)
                pixels[16:24, 24:32] = round(spot * 255)
                write_png(root / name / "test" / label / f"{i}.png", pixels)
                if label == "dent":
                    mask = np.zeros((48, 64, 1), np.uint8)
                    mask[16:24, 24:32] = 255
                    write_png(root / name / "ground_truth" / label / f"{i}_mask.png", mask)
        write_png(root / name / "train/good/0.png", np.full((48, 64, 3), 52, np.uint8))
    return root


Render = Callable[..., str]


@pytest.fixture
def render(tiny_engine: Path, data: Path) -> Render:
    """`render(thresholds)`: the report of `tiny_engine` on `data`."""

    def make(thresholds: dict[str, float] | None = None) -> str:
        dataset = load_dataset(data)
        session, _ = open_engine(tiny_engine)
        with session:
            evaluation = evaluate(session, dataset, keep=choose_hardest)
            facts = describe_subject(tiny_engine, "engine tiny", session, dataset)
        rows = load_rows(evaluation.images, session.frame)
        return render_report(
            evaluation, rows, title="engine tiny", facts=facts, thresholds=thresholds, when=WHEN
        )

    return make


def test_a_name_cannot_become_markup(render: Render) -> None:
    source = render({"bolt": 0.4, HOSTILE: 0.4})
    page = Page(source)
    assert page.all("script") == []
    assert not any("onerror" in a for _, a in page.found)
    assert all((image["src"] or "").startswith("data:image/") for image in page.all("img"))
    # It is shown as it is, in the table, as a heading, and beside its images.
    assert page.text.count(HOSTILE) >= 3
    assert any(HOSTILE in (image["alt"] or "") for image in page.all("img"))
    assert "<script" not in source


def test_the_page_fetches_nothing(render: Render) -> None:
    source = render()
    page = Page(source)
    assert page.all("link") == page.all("iframe") == page.all("object") == []
    assert "@import" not in source
    assert "url(" not in source
    assert not re.search(r"https?://", source)
    links = [a["href"] for a in page.all("a")]
    ids = {a["id"] for _, a in page.found if "id" in a}
    assert links == ["#class-0", "#class-1"]
    assert {(link or "")[1:] for link in links} <= ids
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert (policy or "").startswith("default-src 'none'")


def test_it_says_what_was_evaluated_and_when(render: Render, tiny_engine: Path) -> None:
    text = Page(render()).text
    for words in (
        "engine tiny",
        "mvtec",
        "64x48 BGR",
        "fp32",
        "onnxruntime",
        "2025-01-02 03:04 UTC",
        "12 test images",
    ):
        assert words in text
    assert f"of {tiny_engine.name}" in text
    assert str(tiny_engine.parent) not in text


def test_with_thresholds_there_are_verdicts(render: Render) -> None:
    text = Page(render({"bolt": 0.4, HOSTILE: 0.6})).text
    # bolt: good at 0.5 rejected, dent at 0.3 missed; at 0.6 nothing is rejected.
    assert "1 of 6" in text
    assert "2 of 6" in text
    assert "Worst misses: 1 of 3 defects" in text
    assert "Worst false alarms: 1 of 3 good images" in text
    assert "Closest to a false alarm: none of 3 good images" in text
    page = Page(render({"bolt": 0.4, HOSTILE: 0.6}))
    assert len(page.classed("wrong")) == 3
    assert len(page.classed("point")) == 2


def test_without_thresholds_there_are_scores_alone(render: Render) -> None:
    page = Page(render())
    assert "no threshold" in page.text
    assert "Defects with the lowest scores" in page.text
    assert "Good images with the highest scores" in page.text
    assert page.classed("chip") == page.classed("point") == []
    assert "% of the threshold" not in page.text


def test_a_class_without_a_threshold_stands_beside_one_with(render: Render) -> None:
    page = Page(render({"bolt": 0.4}))
    assert "Worst misses: 1 of 3 defects" in page.text
    assert "Defects with the lowest scores" in page.text


def test_frame_map_and_truth_are_real_pictures(render: Render) -> None:
    page = Page(render({"bolt": 0.4, HOSTILE: 0.4}))
    assert len(page.classed("case")) == 12
    assert len(page.classed("empty")) == 2  # the scratches have no mask
    assert "no mask" in page.text
    kinds: dict[str, list[NDArray[np.uint8]]] = {}
    for image in page.all("img"):
        encoded = np.frombuffer(base64.b64decode((image["src"] or "").split(",")[1]), np.uint8)
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        assert pixels is not None
        assert (str(pixels.shape[1]), str(pixels.shape[0])) == (image["width"], image["height"])
        kinds.setdefault((image["alt"] or "").split(" of ")[0], []).append(pixels.astype(np.uint8))
    assert {kind: len(found) for kind, found in kinds.items()} == {
        "frame": 12,
        "anomaly map": 12,
        "truth": 10,
    }
    # The first case of a class is the defect with the lowest score; its truth is white in the middle alone.
    truth = kinds["truth"][0]
    assert truth[20 * truth.shape[0] // 48, 28 * truth.shape[1] // 64].min() > 200
    assert truth[0, 0].max() < 60


def test_the_numbers_are_those_of_the_evaluation(tiny_engine: Path, data: Path) -> None:
    session, _ = open_engine(tiny_engine)
    with session:
        found = evaluate(session, load_dataset(data), aupro_limit=0.05)
    text = Page(render_report(found, [], title="t", facts={})).text
    for metrics in (*found.classes.values(), found.mean):
        for value in metrics.values.values():
            assert f"{value:.3f}" in text
    assert "AUPRO to 0.05" in text
    assert "2 defect images without a mask" in text


def test_a_class_of_good_images_alone_has_no_curves(tiny_engine: Path, data: Path) -> None:
    for label in ("dent", "scratch"):
        shutil.rmtree(data / "bolt/test" / label)
    session, _ = open_engine(tiny_engine)
    with session:
        found = evaluate(session, load_dataset(data))
    page = Page(render_report(found, [], title="t", facts={}, thresholds={"bolt": 0.4, HOSTILE: 0.4}))
    assert len(page.all("svg")) == 1 + 3
    assert "allow no number" in page.text
    assert "0 defects" in page.text


def test_an_evaluation_made_without_curves_has_a_report(tiny_engine: Path, data: Path) -> None:
    session, _ = open_engine(tiny_engine)
    with session:
        found = evaluate(session, load_dataset(data))
    bare = Evaluation(found.classes, found.aupro_limit, found.images)
    assert len(Page(render_report(bare, [], title="t", facts={})).all("svg")) == 2


def test_the_same_evaluation_gives_the_same_bytes(render: Render, tmp_path: Path) -> None:
    first = render({"bolt": 0.4})
    assert first == render({"bolt": 0.4})
    assert first.startswith('<!DOCTYPE html>\n<html lang="en">')


def test_it_is_written_whole(tiny_engine: Path, data: Path, tmp_path: Path) -> None:
    session, _ = open_engine(tiny_engine)
    with session:
        found = evaluate(session, load_dataset(data))
    write_report(
        tmp_path / "new" / "report.html", found, [], title="t", facts={"data set": "parts"}, when=WHEN
    )
    assert (tmp_path / "new/report.html").read_text(encoding="utf-8") == render_report(
        found, [], title="t", facts={"data set": "parts"}, when=WHEN
    )
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]


def judged(label: str, score: float, class_name: str = "nut") -> JudgedImage:
    name = f"{class_name}/test/{label}/{score:g}.png"
    return JudgedImage(class_name, Sample(Path(name), name, label), score)


def test_the_hardest_are_low_defects_and_high_good_ones() -> None:
    images = [judged("good", s) for s in (0.1, 0.5, 0.3)] + [judged("dent", s) for s in (0.9, 0.2, 0.4)]
    images += [judged("good", 7.0, "bolt")]
    chosen = choose_hardest(images, 2)
    assert [(i.class_name, i.sample.label, i.score) for i in chosen] == [
        ("nut", "dent", 0.2), ("nut", "dent", 0.4), ("nut", "good", 0.5), ("nut", "good", 0.3), ("bolt", "good", 7.0),
    ]  # fmt: skip


def test_markup_escapes_all_that_does_not_say_it_is_markup() -> None:
    assert element("p", "a < b", None, element("br"), class_="x&y") == '<p class="x&amp;y">a &lt; b<br></p>'
    assert (
        element("line", x1=1.0, x2=0.126, stroke_width="2")
        == '<line x1="1" x2="0.13" stroke-width="2"></line>'
    )
    assert element("a", '"', href='"><script>') == '<a href="&quot;&gt;&lt;script&gt;">&quot;</a>'
    assert join("<", Markup("<b>"), None) == "&lt;<b>"
    assert element("meta", name="viewport") == '<meta name="viewport">'


def bars(chart: Markup, kind: str) -> list[tuple[float, float]]:
    """(x, height) of every bar of a kind."""
    found = [a for a in Page(chart).all("rect") if a["class"] == f"bar {kind}"]
    return [(float(a["x"] or 0), float(a["height"] or 0)) for a in found]


def test_the_histogram_has_every_image_on_its_side() -> None:
    chart = histogram([1.0] * 6 + [2.0] * 3, [2.0] * 3 + [9.0], threshold=3.0)
    good, defect = bars(chart, "good"), bars(chart, "defect")
    # One scale of counts for both: heights as 6 to 3, and 3 to 1.
    assert [h / good[1][1] for _, h in good] == pytest.approx([2, 1], rel=0.01)
    assert [h / good[1][1] for _, h in defect] == pytest.approx([1, 1 / 3], rel=0.01)
    assert good[1][0] == defect[0][0]
    assert sum(h for _, h in (good[0], defect[0])) == pytest.approx(BOTTOM - TOP)
    (mark,) = Page(chart).classed("mark")
    assert good[1][0] < float(mark["x1"] or 0) < defect[1][0]
    assert "threshold 3" in Page(chart).text


@pytest.mark.parametrize(
    ("good", "defect", "threshold"),
    [([0.5], [0.5], 0.5), ([0.5], [], None), ([], [-3.0, 1e6], -2.0), ([1e-9, 2e-9], [3e-9], None), ([0.0] * 5000, [1], 1)],
)  # fmt: skip
def test_any_scores_fit_the_histogram(
    good: list[float], defect: list[float], threshold: float | None
) -> None:
    page = Page(histogram(good, defect, threshold))
    for rectangle in page.all("rect"):
        x, y = float(rectangle["x"] or 0), float(rectangle["y"] or 0)
        width, height = float(rectangle["width"] or 0), float(rectangle["height"] or 0)
        assert LEFT <= x <= x + width <= RIGHT
        assert y + 0.01 >= TOP
        assert y + height <= BOTTOM + 0.01
    assert len(page.classed("tick")) >= 3


def test_curves_are_drawn_where_they_are() -> None:
    curve = Curve(np.array([0.0, 0.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0, 1.0]))
    (path,) = Page(roc_chart(curve, None)).all("path")
    middle = (LEFT + RIGHT) / 2
    assert (
        path["d"]
        == f"M{LEFT:.1f} {BOTTOM:.1f}L{LEFT:.1f} {(TOP + BOTTOM) / 2:.1f}L{middle:.1f} {TOP:.1f}L{RIGHT:.1f} {TOP:.1f}"
    )
    (point,) = Page(roc_chart(curve, curve, (0.5, 1.0))).classed("point")
    assert (float(point["cx"] or 0), float(point["cy"] or 0)) == (middle, TOP)


def test_the_pro_chart_ends_its_area_at_the_limit() -> None:
    curve = Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    page = Page(pro_chart(curve, 0.3))
    area, line = (a["d"] or "" for a in page.all("path"))
    x = LEFT + (RIGHT - LEFT) / 2  # the axis ends at 0.6
    assert f"L{x:.1f} {BOTTOM - 0.3 * (BOTTOM - TOP):.1f}L{x:.1f} {BOTTOM:.1f}" in area
    assert line.endswith(f"L{RIGHT:.1f} {BOTTOM - 0.6 * (BOTTOM - TOP):.1f}")
    assert "limit 0.3" in page.text
    assert "1" in [a.get("x") or "" for a in page.all("text")] or Page(pro_chart(curve, 1.0)).text.count(
        "limit 1"
    )


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

PROBE = """<script>
addEventListener("load", () => {
const pictures = [...document.images];
document.title = JSON.stringify({
  shown: pictures.filter(p => p.complete && p.naturalWidth > 0).length,
  pictures: pictures.length,
  requests: performance.getEntriesByType("resource").length,
  over: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  charts: [...document.querySelectorAll("svg")].filter(c => c.getBoundingClientRect().height > 100).length,
  columns: getComputedStyle(document.querySelector(".charts")).gridTemplateColumns.split(" ").length,
})});
</script>"""


def show(page: str, folder: Path, width: int) -> dict[str, int]:
    """What Chromium says of a page that it shows in a window of some width."""
    # The probe is a script, which the page's own policy refuses: it is lifted, and with it what would hide a request.
    lifted, n = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert n == 1
    (folder / "report.html").write_text(lifted.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--window-size={width},2000", f"--user-data-dir={folder / 'profile'}", "--dump-dom",
        (folder / "report.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stdout[:500]
    found: dict[str, int] = json.loads(title[1])
    return found


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to show the page in")
@pytest.mark.parametrize(("width", "columns"), [(1280, 3), (400, 1)])
def test_a_browser_shows_all_of_it_and_asks_for_nothing(
    render: Render, tmp_path: Path, width: int, columns: int
) -> None:
    found = show(render({"bolt": 0.4, HOSTILE: 0.4}), tmp_path, width)
    expected = {"shown": 34, "pictures": 34, "requests": 0, "over": 0, "charts": 6, "columns": columns}
    assert found == expected


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to show the page in")
def test_a_request_and_a_picture_that_is_not_there_would_be_noticed(render: Render, tmp_path: Path) -> None:
    page = render().replace("</body>", '<img src="http://elsewhere.invalid/x.png"></body>')
    found = show(page, tmp_path, 1280)
    assert (found["requests"], found["pictures"], found["shown"]) == (1, 35, 34)
