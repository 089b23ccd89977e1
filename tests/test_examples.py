"""The notebook of examples/ runs in a real kernel, on a few images and for two steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "train_and_explain.ipynb"
SHORT = """
DETECTOR, LENGTH, TRAIN_IMAGES, TEST_IMAGES = "ssd300-test_efficientnet", {"steps": 2}, 12, 4
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The executed code cells."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source += SHORT
    folder = tmp_path_factory.mktemp("notebook")
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(cells: list[Any], source: str, kind: str) -> list[str]:
    """What the cell that holds this source shows of a kind."""
    cell = next(one for one in cells if source in one.source)
    return [one.data[kind] for one in cell.outputs if kind in one.get("data", {})]


def printed(cells: list[Any], source: str) -> str:
    cell = next(one for one in cells if source in one.source)
    return "".join(one.text for one in cell.outputs if one.output_type == "stream")


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_a_run_in_a_notebook_prints_text_and_one_line_that_changes(cells: list[Any]) -> None:
    said = printed(cells, "onestage.train(")
    assert "run folder: train_and_explain/run" in said
    assert "trained on" in said
    assert "\x1b" not in said  # no colours of a terminal
    assert "\r" not in said
    assert not outputs(cells, "onestage.train(", "text/html")  # no line of HTML for each line
    assert len(outputs(cells, "onestage.train(", "text/plain")) <= 8  # stages that took half a second


def test_results_show_themselves(cells: list[Any]) -> None:
    cell = next(one for one in cells if one.source == "result")
    (html,) = (one.data["text/html"] for one in cell.outputs)
    assert "AP50 (VOC, area)" in html
    assert "train_and_explain/run/report.html" in html
    assert "data:image/jpeg;base64," in html
    assert len(html) < 300_000
    (table,) = outputs(cells, "found = predictor(", "text/html")
    assert "detection" in table
    assert outputs(cells, "found.filter(score=0.4).show", "image/png")
