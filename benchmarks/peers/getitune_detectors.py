"""getitune: a recipe of its own by name (ssd_mobilenetv2, atss_mobilenetv2), exported as OpenVINO and made int8.

Its weights are downloads that no package carries: from scratch. Files are read by OpenCV, as its ModelAPI's pages do.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import cv2
import getitune
import yaml
from getitune.engine import create_engine
from job import Find, Found, Job, main
from model_api.models import Model


def _recipe(job: Job) -> str:
    """Its recipe, without the download of weights."""
    recipes = Path(getitune.__file__).parent / "recipe" / "detection"
    recipe = yaml.safe_load((recipes / f"{job.model}.yaml").read_text())
    recipe["model"]["init_args"]["pretrained"] = False
    recipe["data"] = str((recipes / recipe["data"]).resolve())
    (job.run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return str(job.run / "recipe.yaml")


def train(job: Job) -> float:
    start = time.perf_counter()
    engine = create_engine(model=_recipe(job), data=str(job.data / "coco"), work_dir=str(job.run), device="cpu")
    with suppress(FileNotFoundError):  # its copy of the best checkpoint, where the minutes end before the first epoch
        engine.train(max_epochs=10_000, min_epochs=0, max_time={"minutes": job.minutes}, seed=job.seed, precision="32")
    seconds = time.perf_counter() - start
    engine.checkpoint = engine.checkpoint or None  # none: as the network is now
    exported = engine.export()
    create_engine(model=str(exported), data=str(job.data / "coco"), work_dir=str(job.run)).optimize()
    return seconds


def load(job: Job) -> Find:
    exported = next(job.run.rglob("optimized_model.xml"))
    model = Model.create_model(str(exported), configuration={"confidence_threshold": 0.01})

    def find(file: str) -> Found:
        found = model(cv2.cvtColor(cv2.imread(file), cv2.COLOR_BGR2RGB))
        return found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist()

    return find


if __name__ == "__main__":
    main(train, load)
