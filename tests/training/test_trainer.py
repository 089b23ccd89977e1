"""When a run evaluates, and what it keeps."""

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from data.test_loader import a_table

from onestage.compute.device import choose_compute
from onestage.data.table import Table
from onestage.detectors import build
from onestage.errors import UserError
from onestage.models.model_file import RunFolder, load_model
from onestage.terminal import quiet
from onestage.training import trainer as trainer_module
from onestage.training.recipe import Recipe
from onestage.training.trainer import Trainer


def trainer_of(recipe: Recipe, table: Table, folder: Path) -> Trainer:
    return Trainer(
        build(recipe.detector, num_classes=len(table.categories)),
        recipe,
        train=table,
        val=table,
        folder=RunFolder(folder),
        compute=choose_compute("cpu", "fp32"),
        display=quiet(),
        workers=0,
    )


def test_a_recipe_without_a_length_is_refused(tmp_path: Path) -> None:
    table = a_table(tmp_path)
    with pytest.raises(UserError, match="it has no length; give --epochs, --steps or --minutes"):
        trainer_of(Recipe("ssd300-test_efficientnet"), table, tmp_path)


def test_of_evaluations_that_are_equal_the_last_weights_are_kept(tmp_path: Path) -> None:
    """As of a run whose first evaluations find nothing: 0 is then no best."""
    table = a_table(tmp_path)
    recipe = Recipe("ssd300-test_efficientnet", steps=2, batch_size=2, precision="fp32")
    trainer = trainer_of(recipe, table, tmp_path / "run")
    nothing = SimpleNamespace(metrics={"voc": {"map_area": 0.0}}, coco={"AP": 0.0})
    with (
        mock.patch.object(trainer_module, "detect_all", return_value=[]),
        mock.patch.object(trainer_module, "measure", return_value=nothing),
        trainer.open_journal() as journal,
    ):
        for trainer.position.step in (1, 2):
            assert trainer.evaluate_and_keep(journal) == 0
    assert load_model(trainer.folder.model).header["step"] == 2
