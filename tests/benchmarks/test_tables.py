from __future__ import annotations

from pathlib import Path

import pytest

from agp_edge.files import write_json
from agpnet.ablation import read_ablation
from benchmarks.tables import KINDS, NOT_RUN, main

ROOT = Path(__file__).resolve().parents[2]

STUDY = {
    "format": "agp-edge-study",
    "version": 1,
    "title": "What was asked.",
    "results": {
        "c-0-d": {
            "seed": 0,
            "parts": {"agpnet": {"seconds": 3.0, "classes": {"part": {"image_auroc": 0.75}}}},
        }
    },
    "rows": [{"group": "noise", "value": "none", "part": "agpnet", "base": None, "keys": ["c-0-d"]}],
}


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(
        "# Title\n\n<!-- table: ablation one.json -->\nold\n<!-- end -->\n\n"
        "text\n\n<!-- table: ablation absent.json -->\n<!-- end -->\nlast\n"
    )
    write_json(tmp_path / "one.json", STUDY)
    return path


def test_tables_are_made_of_their_files_and_the_rest_is_left(document: Path) -> None:
    assert main([str(document), "--check"]) == 1
    assert "old" in document.read_text()
    assert main([str(document)]) == 0
    text = document.read_text()
    table = read_ablation(document.with_name("one.json")).to_markdown()
    assert f"<!-- table: ablation one.json -->\n\n{table}\n<!-- end -->" in text
    assert "| noise | none | 1 | 0.750 | - | - |" in table
    assert "<!-- table: ablation absent.json -->\n\nNot run yet.\n\n<!-- end -->\nlast\n" in text
    assert text.startswith("# Title\n\n")
    assert "old" not in text
    assert main([str(document), "--check"]) == 0


OF_STUDIES = sorted(
    set(KINDS)
    - {"calibration-sets", "cpu-backends", "gpu", "int8", "int8-layers", "scene-watch", "web-viewers"}
)
"""The others have documents of their own, and are tested beside what writes them."""


@pytest.mark.parametrize("kind", OF_STUDIES)
def test_every_kind_shows_what_a_file_says(document: Path, kind: str) -> None:
    document.write_text(f"<!-- table: {kind} one.json -->\n<!-- end -->\n")
    assert main([str(document)]) == 0
    assert "What was asked." in document.read_text()
    assert "0.750" in document.read_text()


def test_an_unknown_kind_and_a_broken_file_are_refused(
    document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document.write_text("<!-- table: cake one.json -->\n<!-- end -->\n")
    assert main([str(document)]) == 2
    assert "a table of kind 'cake'" in capsys.readouterr().err
    document.write_text("<!-- table: ablation one.json -->\n<!-- end -->\n")
    document.with_name("one.json").write_text("{}")
    assert main([str(document)]) == 2


@pytest.mark.parametrize(
    "page", ["ablations.md", "calibration.md", "engines.md", "int8.md", "live.md", "scene.md"]
)
def test_a_page_shows_its_results(page: str) -> None:
    assert NOT_RUN not in (ROOT / "docs" / page).read_text()
    assert main([str(ROOT / "docs" / page), "--check"]) == 0
