"""The first five minutes: draw a data set, train a detector on it, and show its report."""

import os
import time
from pathlib import Path
from typing import Any

from onestage.data.generated import write_generated_voc
from onestage.jobs.predict import predict
from onestage.jobs.train import train
from onestage.terminal import Display, command_display, duration
from onestage.training.recipe import Recipe

# A light network with grouped convolutions; the gradients of depthwise ones are slow on CPUs.
DEMO_DETECTOR = "ssd300-regnetx_002"


def demo(
    *,
    out: str | os.PathLike[str] = "runs/demo",
    minutes: float = 5.25,
    seed: int = 0,
    train_images: int = 600,
    test_images: int = 150,
    display: Display | None = None,
) -> dict[str, Any]:
    """Draw a data set, train and evaluate a detector on it, and draw its detections.

    `out` gets the folders `data`, `run` and `predictions`; an earlier demo in it is not touched. `minutes` are those of
    training, evaluations included. What is returned is the content of `metrics.json`.

    Raises:
        UserError: `out` holds a demo already.
    """
    display = command_display(display)
    Recipe(DEMO_DETECTOR, minutes=minutes, seed=seed)  # refuses what training would, before anything is drawn
    started = time.monotonic()
    data, run, predictions = (Path(out) / name for name in ("data", "run", "predictions"))
    write_generated_voc(data, seed=seed, train=train_images, test=test_images)
    display.say(f"drew {train_images} training and {test_images} test images: {data}")
    result = train(
        data, detector=DEMO_DETECTOR, out=run, minutes=minutes, backbone_weights="none", seed=seed, display=display
    )
    test_names = (data / "ImageSets" / "Main" / "test.txt").read_text().split()[:12]
    images = [str(data / "JPEGImages" / f"{name}.jpg") for name in test_names]
    predict(result.folder, images, out=predictions, display=display)
    display.say(
        f"done in {duration(time.monotonic() - started)}: AP50 {result.metrics['voc']['map_area']:.3f}. "
        f"Look at {result.folder / 'report.html'} and {predictions}"
    )
    return result.metrics
