"""The tree of errors: exit codes are a contract, and an error keeps its two lines wherever it travels."""

from __future__ import annotations

import pickle

import pytest

from agp_edge import errors
from agp_edge.errors import AgpEdgeError, MissingExtraError

EXIT_CODES = {
    "AgpEdgeError": 1, "InputError": 2, "MissingExtraError": 2, "GateError": 3, "ArtefactError": 4,
    "WorkStoppedError": 5, "SourceLostError": 5, "DiskFullError": 5, "DeviceLostError": 5, "DivergedError": 5,
    "ObjectiveMissedError": 6,
}  # fmt: skip
CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AgpEdgeError)
]


def test_every_error_has_its_exit_code() -> None:
    assert {kind.__name__: kind.exit_code for kind in CLASSES} == EXIT_CODES
    assert errors.INTERRUPTED == 130


def test_the_tree_is_drawn_as_it_is() -> None:
    assert errors.__doc__ is not None
    for kind in CLASSES:
        (line,) = (row for row in errors.__doc__.splitlines() if f" {kind.__name__} " in row)
        assert f" {kind.exit_code} " in line


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not MissingExtraError])
def test_an_error_survives_the_way_from_another_process(kind: type[AgpEdgeError]) -> None:
    error = pickle.loads(pickle.dumps(kind("frame is 3x3", "give 4x4")))  # noqa: S301
    assert type(error) is kind
    assert (error.what, error.hint) == ("frame is 3x3", "give 4x4")
    assert str(error) == "frame is 3x3\ngive 4x4"


def test_a_missing_extra_names_its_installation() -> None:
    error = pickle.loads(pickle.dumps(MissingExtraError("cv2", "camera", "reading images")))  # noqa: S301
    assert error.what == "reading images needs cv2, which is not installed"
    assert "pip install 'agp-edge[camera]'" in error.hint
