from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from scipy import stats

from agpnet.sample_data import SampleCounts, make_sample_data
from benchmarks.perturbation import STUDENT_T_975, in_order, interval, measure, table


@pytest.mark.parametrize(("freedom", "point"), STUDENT_T_975.items())
def test_students_t(freedom: int, point: float) -> None:
    assert point == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-3)


def test_the_interval_is_that_of_a_t_test() -> None:
    values = [0.91, 0.94, 0.92]
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    mean, half = interval(values)
    assert (mean - half, mean + half) == pytest.approx((low, high), abs=1e-4)
    assert math.isnan(interval([0.9])[1])


def test_the_table_takes_the_mean_over_surfaces_before_the_interval_over_seeds() -> None:
    results = [
        {
            "noise": noise,
            "surface": surface,
            "seed": seed,
            "image_auroc": value,
            "pixel_auroc": 1.0,
            "aupro": 0.5,
        }
        for noise, shift in (("none", 0.0), ("guided", 0.1))
        for seed, (a, b) in enumerate(((0.5, 0.7), (0.7, 0.5)))
        for surface, value in (("brick", a + shift), ("grass", b + shift))
    ]
    rows = table(in_order(results)).splitlines()
    assert rows[4] == "| guided | **mean** | 0.700 ± 0.000 | 1.000 ± 0.000 | 0.500 ± 0.000 |"
    assert rows[-1].startswith("| none | **mean** | 0.600 ± 0.000")


def test_a_training_is_measured_for_real(tmp_path: Path) -> None:
    make_sample_data(
        tmp_path / "data", surfaces=("grass",), counts=SampleCounts(train=6, test_good=3, test_defect=1)
    )
    result = measure(tmp_path / "data", "grass", noise="random", seed=3, steps=2)
    assert (result["surface"], result["noise"], result["seed"]) == ("grass", "random", 3)
    assert 0 <= result["pixel_auroc"] <= 1
    json.dumps(result, allow_nan=False)
