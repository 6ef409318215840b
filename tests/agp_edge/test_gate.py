"""The gate: what it lets through, what it refuses, and how sure it is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agp_edge.errors import GateError, InputError
from agp_edge.files import to_json
from agp_edge.gate import GateReport, Scores, compare, frames_to_prove, parse_rate
from agp_edge.verdict import upper_bound_95

NORMAL = [float(i) for i in range(1, 21)]  # Median 10.5; the threshold of n = 20 is the largest, 20.
GATE = [5.0] * 19 + [30.0]


def scores(normal: list[float] | None = None, gate: list[float] | None = None, **change: float) -> Scores:
    measured = list(GATE if gate is None else gate)
    for index, value in change.items():
        measured[int(index[1:])] = value
    maps = np.tile(np.arange(12, dtype=np.float32).reshape(1, 3, 4), (len(measured), 1, 1))
    return Scores(NORMAL if normal is None else normal, measured, maps)


def changed(index: int, value: float) -> Scores:
    gate = list(GATE)
    gate[index] = value
    return scores(gate=gate)


def judge(reference: Scores, candidate: Scores, prove: float | None = None) -> GateReport:
    names = [f"{i}.png" for i in range(len(reference.gate))]
    return compare(reference, candidate, names, {"gate": "abc"}, prove=prove)


def test_equal_verdicts_pass() -> None:
    report = judge(scores(), scores(_3=6.0))
    report.check("int8")
    assert (report.outcome, report.n, report.flips, report.splits) == ("passed", 20, [], {"gate": "abc"})
    assert report.bound_95 == upper_bound_95(0, 20)
    assert (report.reference_threshold, report.candidate_threshold) == (20, 20)
    assert "0 flips in n = 20" in report.describe()


def test_drift_is_in_units_of_the_gap_between_threshold_and_median() -> None:
    report = judge(scores(), scores(_3=5 + 9.5, _4=5 - 1.9))
    assert report.drift_max == pytest.approx(1)
    assert report.drift_mean == pytest.approx(1.2 / 20)


@pytest.mark.parametrize(("index", "value"), [(2, 20.5), (19, 20.0)], ids=["OK to NG", "NG to OK"])
def test_one_flip_refuses_and_is_named(index: int, value: float) -> None:
    report = judge(scores(), changed(index, value))
    assert (report.outcome, report.flips) == ("refused", [f"{index}.png"])
    with pytest.raises(GateError, match=rf"flipped on 1 of 20 frames: {index}\.png") as caught:
        report.check("int8")
    assert caught.value.exit_code == 3
    assert "--accept" in caught.value.hint


def test_each_is_judged_by_its_own_threshold() -> None:
    eightfold = Scores([8 * s for s in NORMAL], [8 * s for s in GATE], scores().maps)
    report = judge(scores(), eightfold)
    assert (report.flips, report.candidate_threshold) == ([], 160)
    assert judge(scores(), scores(normal=[s / 8 for s in NORMAL])).flips == [f"{i}.png" for i in range(19)]


def test_fewer_than_sixteen_frames_say_nothing() -> None:
    for n, outcome in ((15, "inconclusive"), (16, "passed"), (0, "inconclusive")):
        report = judge(scores(gate=[5.0] * n), scores(gate=[5.0] * n))
        assert report.outcome == outcome
    fifteen = judge(scores(gate=[5.0] * 15), scores(gate=[5.0] * 14 + [50.0]))
    with pytest.raises(GateError, match="INCONCLUSIVE: 15 gate frames"):
        fifteen.check("int8")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_candidate_that_is_no_number_is_refused(bad: float) -> None:
    # Frame 19 is NG for both: no verdict flips, and it is refused all the same.
    for candidate in (scores(_19=bad), scores(normal=[*NORMAL[:-1], bad])):
        report = judge(scores(), candidate)
        assert report.outcome == "refused"
        with pytest.raises(GateError):
            report.check("int8")
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
    opposite = Scores(NORMAL, GATE, -7 * candidate.maps + 3)
    assert judge(reference, opposite).map_correlation == pytest.approx(-1)
    noise = np.random.default_rng(0).normal(size=candidate.maps.shape).astype(np.float32)
    by_hand = np.mean(
        [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(reference.maps, noise, strict=True)]
    )
    assert judge(reference, Scores(NORMAL, GATE, noise)).map_correlation == pytest.approx(float(by_hand))
    flat = Scores(NORMAL, GATE, np.ones_like(candidate.maps))
    assert judge(flat, flat).map_correlation == 1
    assert judge(reference, flat).map_correlation == 0


def test_what_cannot_be_compared_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="differ in number"):
        compare(scores(), scores(), ["a"], {})
    other = Scores(NORMAL, GATE, np.zeros((20, 2, 2), np.float32))
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
    seeing = Scores(NORMAL, [5.0] * n, maps)
    blind = Scores([1.0] * len(NORMAL), [1.0] * n, np.ones((n, 4, 4), np.float32))
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
