"""The gate: what it lets through, what it refuses, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from agp_edge.errors import GateError, InputError
from agp_edge.files import to_json
from agp_edge.frame import PRECISIONS, Precision
from agp_edge.gate import (
    ALLOWANCES,
    GateReport,
    LabelledMetrics,
    Scores,
    check_reason,
    compare,
    frames_to_prove,
    map_correlations,
    parse_rate,
    rank_correlation,
)
from agp_edge.verdict import upper_bound_95

NORMAL = [float(i) for i in range(1, 21)]  # Median 10.5; the threshold of n = 20 is the largest, 20.
GATE = [5.0] * 19 + [30.0]


def scores(normal: list[float] | None = None, gate: list[float] | None = None, **change: float) -> Scores:
    """An INT8 artefact's, `_3=6.0` for another score of gate frame 3."""
    measured = list(GATE if gate is None else gate)
    for index, value in change.items():
        measured[int(index[1:])] = value
    maps = np.tile(np.arange(12, dtype=np.float32).reshape(1, 3, 4), (len(measured), 1, 1))
    return Scores(NORMAL if normal is None else normal, measured, maps, "int8")


def changed(index: int, value: float) -> Scores:
    gate = list(GATE)
    gate[index] = value
    return scores(gate=gate)


def judge(reference: Scores, candidate: Scores, prove: float | None = None) -> GateReport:
    names = [f"{i}.png" for i in range(len(reference.gate))]
    return compare(reference, candidate, names, {"gate": "abc"}, prove=prove)


def refusal(report: GateReport) -> GateError:
    with pytest.raises(GateError) as caught:
        report.check("part")
    assert caught.value.exit_code == 3
    assert len(str(caught.value).splitlines()) == 2
    return caught.value


def test_equal_verdicts_pass() -> None:
    report = judge(scores(), scores(_3=6.0))
    report.check("int8")
    assert (report.outcome, report.n, report.flips, report.splits) == ("passed", 20, [], {"gate": "abc"})
    assert report.reasons == []
    assert report.bound_95 == upper_bound_95(0, 20)
    assert (report.reference_threshold, report.candidate_threshold) == (20, 20)
    assert "0 flips in n = 20" in report.describe()


def test_drift_is_in_units_of_the_gap_between_threshold_and_median() -> None:
    report = judge(scores(), scores(_3=5 + 9.5, _4=5 - 1.9))
    assert report.gap == 9.5
    assert report.drift_max == pytest.approx(1)
    assert report.drift_mean == pytest.approx(1.2 / 20)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_allowance_is_that_of_the_coarser_precision(precision: Precision) -> None:
    allowed = ALLOWANCES[precision].drift * 9.5
    for share, outcome in ((0.99, "passed"), (1.01, "refused")):
        moved = replace(scores(_3=5 + share * allowed), precision=precision)
        exact = replace(scores(), precision="fp32")
        for report in (judge(exact, moved), judge(moved, exact)):
            assert (report.outcome, report.flips, report.precision) == (outcome, [], precision)
            assert report.allowance == ALLOWANCES[precision]
    assert f"at most {ALLOWANCES[precision].drift:g} is allowed for {precision}" in refusal(report).what


def test_the_defaults_are_those_that_are_promised() -> None:
    assert ALLOWANCES["fp32"].drift == 1e-3
    assert ALLOWANCES["int8"].auroc_loss == 0.005
    order = [ALLOWANCES[p] for p in PRECISIONS]
    assert order == sorted(order, key=lambda a: (a.drift, -a.map_correlation)), "the coarser, the more"


@pytest.mark.parametrize(("index", "value"), [(2, 20.5), (19, 20.0)], ids=["OK to NG", "NG to OK"])
def test_one_flip_refuses_and_is_named(index: int, value: float) -> None:
    report = judge(scores(), changed(index, value))
    assert (report.outcome, report.flips) == ("refused", [f"{index}.png"])
    error = refusal(report)
    assert f"flipped on 1 of 20 frames: {index}.png" in error.what
    assert "--accept" in error.hint


def test_the_message_has_every_reason_and_the_place() -> None:
    with pytest.raises(GateError) as caught:
        judge(scores(), scores(_2=60.0)).check("part", can_accept=False, shown="see both maps in here")
    assert "verdict flipped on 1 of 20 frames: 2.png; a score moved by 5.79 times" in caught.value.what
    assert caught.value.hint.startswith("see both maps in here; take fp16 or fp32")
    assert "--accept" not in caught.value.hint


def test_each_is_judged_by_its_own_threshold() -> None:
    eightfold = Scores([8 * s for s in NORMAL], [8 * s for s in GATE], scores().maps)
    report = judge(scores(), eightfold)
    assert (report.flips, report.candidate_threshold) == ([], 160)
    assert judge(scores(), scores(normal=[s / 8 for s in NORMAL])).flips == [f"{i}.png" for i in range(19)]


def test_fewer_than_sixteen_frames_say_nothing() -> None:
    for n, outcome in ((15, "inconclusive"), (16, "passed"), (1, "inconclusive"), (0, "inconclusive")):
        report = judge(scores(gate=[5.0] * n), scores(gate=[5.0] * n))
        assert report.outcome == outcome
        to_json(report.to_dict())
    fifteen = judge(scores(gate=[5.0] * 15), scores(gate=[5.0] * 14 + [50.0]), prove=0.005)
    error = refusal(fifteen)
    assert "INCONCLUSIVE: 15 gate frames" in error.what
    assert "flipped on 1 of 15" in error.what, "what there is to say is said all the same"
    assert "583 more gate frames" in error.hint


def test_a_gate_without_a_frame_shows_no_figure_of_one() -> None:
    labelled = replace(scores(gate=[]), labelled=LabelledMetrics(0.95, None))
    report = judge(labelled, labelled)
    assert report.describe() == "INCONCLUSIVE: there is no gate frame"
    assert report.describe_more() == ["image AUROC 0.9500 -> 0.9500 (+0.00 points)"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_whosever_it_is(bad: float) -> None:
    # Frame 19 is NG for both: no verdict flips, and it is refused all the same.
    spoilt_map = scores()
    spoilt_map.maps[3, 0, 0] = bad
    for spoilt in (scores(_19=bad), scores(normal=[*NORMAL[:-1], bad]), spoilt_map):
        for report in (judge(scores(), spoilt), judge(spoilt, scores())):
            assert report.outcome == "refused"
            assert "no finite numbers" in refusal(report).what
            to_json(report.to_dict())


@pytest.mark.parametrize("rate", [0.005, 0.01, 0.05, 0.2])
def test_how_many_frames_prove_a_rate(rate: float) -> None:
    n = frames_to_prove(rate)
    assert upper_bound_95(0, n) <= rate < upper_bound_95(0, n - 1)


def test_half_a_percent_needs_598_frames() -> None:
    assert frames_to_prove(0.005) == 598
    few = judge(scores(gate=[5.0] * 597), scores(gate=[5.0] * 597), prove=0.005)
    assert (few.outcome, few.flips) == ("refused", [])
    with pytest.raises(GateError, match=r"not below 0\.500%") as caught:
        few.check("int8")
    assert caught.value.hint.startswith("1 more gate frames")
    assert judge(scores(gate=[5.0] * 598), scores(gate=[5.0] * 598), prove=0.005).outcome == "passed"


def test_maps_are_correlated_frame_by_frame() -> None:
    reference, candidate = scores(), scores()
    assert judge(reference, candidate).map_correlation == pytest.approx(1)
    opposite = replace(candidate, maps=-7 * candidate.maps + 3)
    assert judge(reference, opposite).map_correlation == pytest.approx(-1)
    noise = np.random.default_rng(0).normal(size=candidate.maps.shape).astype(np.float32)
    by_hand = np.mean(
        [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(reference.maps, noise, strict=True)]
    )
    assert judge(reference, replace(candidate, maps=noise)).map_correlation == pytest.approx(float(by_hand))
    one = candidate.maps.copy()
    one[7] *= -1
    report = judge(reference, replace(candidate, maps=one))
    assert report.map_correlation == pytest.approx(0.9)
    assert report.map_correlation_min == pytest.approx(-1)


def test_flat_maps_correlate_when_they_are_as_flat() -> None:
    slope = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    flat = np.full_like(slope, 5)
    rounded = flat + np.float32(1e-6) * (slope % 2)
    assert map_correlations(flat, flat).tolist() == map_correlations(flat, rounded).tolist() == [1]
    assert map_correlations(slope, flat).tolist() == map_correlations(flat, slope).tolist() == [0]
    assert map_correlations(np.zeros_like(slope), np.zeros_like(slope)).tolist() == [1]


def test_rank_correlation_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for ties in (1, 10, 1000):
        a = np.round(rng.normal(size=50) * ties) / ties
        b = np.round((a + rng.normal(size=50)) * ties) / ties
        assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
        assert rank_correlation(a, -b) == pytest.approx(-stats.spearmanr(a, b).statistic)


def test_an_order_that_was_never_there_cannot_be_lost() -> None:
    some, even = np.array([1.0, 2, 3]), np.array([4.0, 4, 4])
    assert rank_correlation(some, np.exp(some)) == pytest.approx(1)
    assert rank_correlation(even, some) is None
    assert rank_correlation(some[:1], some[:1]) is None
    assert rank_correlation(some[:0], some[:0]) is None
    assert rank_correlation(some, even) == 0
    assert rank_correlation(some, np.array([1, 2, np.nan])) == 0


def test_scores_that_are_all_the_same_leave_rounding_its_room() -> None:
    n = len(GATE)
    even = replace(scores(normal=[5.0] * 20, gate=[5.0] * n), precision="fp32")
    report = judge(even, replace(even, gate=[5.0 * (1 - 3e-7)] * n))
    assert (report.outcome, report.gap, report.rank_correlation) == ("passed", 0.05, None)
    other = judge(even, replace(even, normal=[5.001] * 20, gate=[5.001] * n))
    assert other.outcome == "refused"
    nothing = replace(scores(normal=[0.0] * 20, gate=[0.0] * n), precision="fp32")
    assert judge(nothing, nothing).outcome == "passed"
    assert judge(nothing, replace(nothing, normal=[1.0] * 20, gate=[1.0] * n)).outcome == "refused"


@pytest.mark.parametrize(("auroc", "outcome"), [(0.96, "passed"), (0.945, "passed"), (0.944, "refused")])
def test_auroc_may_rise_and_fall_by_half_a_point(auroc: float, outcome: str) -> None:
    before = replace(scores(), labelled=LabelledMetrics(0.95, 0.9, 0.001))
    after = replace(scores(), labelled=LabelledMetrics(auroc, None, 0.001))
    report = judge(before, after)
    assert report.outcome == outcome
    assert report.image_auroc is not None
    assert report.image_auroc.change == pytest.approx(auroc - 0.95)
    assert report.aupro is None
    assert report.to_dict()["image_auroc"]["candidate"] == auroc
    assert any(f"image AUROC 0.9500 -> {auroc:.4f}" in line for line in report.describe_more())
    if outcome == "refused":
        assert "image AUROC fell by 0.60 points" in refusal(report).what
    assert judge(scores(), after).image_auroc is None, "one side alone is no change"


def test_few_labelled_images_may_lose_one_pair() -> None:
    step = 1 / 16
    before = replace(scores(), labelled=LabelledMetrics(1.0, None, step))
    for pairs, outcome in ((1, "passed"), (1.5, "refused")):
        report = judge(before, replace(scores(), labelled=LabelledMetrics(1 - pairs * step, None, step)))
        assert (report.outcome, report.auroc_step) == (outcome, step)
    assert "at most 6.25, one pair of these images in the wrong order, are allowed" in refusal(report).what


def test_what_is_printed_fits_a_terminal() -> None:
    labelled = replace(scores(), labelled=LabelledMetrics(0.95, 0.9))
    report = judge(labelled, labelled)
    assert max(map(len, [f"  gate {report.describe()}", *(f"    {x}" for x in report.describe_more())])) <= 80
    assert "AUPRO 0.9000 -> 0.9000 (+0.00 points)" in report.describe_more()


def test_what_cannot_be_compared_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="differ in number"):
        compare(scores(), scores(), ["a"], {})
    other = replace(scores(), maps=np.zeros((20, 2, 2), np.float32))
    with pytest.raises(ValueError, match="cannot be compared"):
        judge(scores(), other)


def test_rates_are_written_in_two_ways() -> None:
    assert parse_rate("0.5%") == parse_rate(" 0.005 ") == parse_rate(".5 %") == pytest.approx(0.005)


@pytest.mark.parametrize("text", ["", "0", "1", "100%", "-1%", "half", "0.5%%", "nan", "1e-3"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no rate"):
        parse_rate(text)


def test_an_artefact_that_went_blind_is_refused_although_nothing_flips() -> None:
    n = len(GATE)
    rng = np.random.default_rng(0)
    maps = rng.random((n, 4, 4)).astype(np.float32)
    seeing = Scores(NORMAL, [5.0] * n, maps, "int8")
    blind = Scores([1.0] * len(NORMAL), [1.0] * n, np.ones((n, 4, 4), np.float32), "int8")
    report = judge(seeing, blind)
    assert (report.outcome, report.map_correlation) == ("refused", 0.0)
    with pytest.raises(GateError, match="maps correlate"):
        report.check("int8")


def test_scores_that_moved_far_are_refused_although_nothing_flips() -> None:
    quiet = [5.0] * len(GATE)
    eightfold = scores(normal=[8 * s for s in NORMAL], gate=[8 * s for s in quiet])
    report = judge(scores(gate=quiet), eightfold)
    assert (report.outcome, report.flips) == ("refused", [])
    with pytest.raises(GateError, match="a score moved by"):
        report.check("int8")


@pytest.mark.parametrize("reason", ["", "  ", "\n"])
def test_an_override_needs_a_reason(reason: str) -> None:
    with pytest.raises(InputError, match="--accept was given no reason"):
        check_reason(reason)
    check_reason("trial on line 3")
    check_reason(None)
