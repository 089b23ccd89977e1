"""Follow a training with code of your own: keep what it finds as images, and stop when it is good enough.

    python examples/own_callback.py MY-DATA --enough 0.9

`log_to` takes an object with the parts below. If it raises an error, it is switched off with a warning,
and the run goes on.
"""

import argparse
import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

import onestage


class Follower:
    title = "the follower"  # in messages
    run_id: str | None = None  # the name that a service gave the run; here there is none

    def __init__(self, folder: Path, enough: float) -> None:
        self.folder, self.enough = folder, enough

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Every ten steps `train/loss` and others; at each evaluation `voc/map_area`, `coco/AP` and others."""
        ap50 = values.get("voc/map_area")
        if ap50 is None:
            return
        print(f"step {step}: AP50 {ap50:.3f}")
        if ap50 >= self.enough:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C: the run saves and stops

    def images(self, title: str, images: Mapping[str, np.ndarray], step: int) -> None:
        """The first batch ("augmented"); "truth and detections" of eight images at each evaluation."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images.values()):
            Image.fromarray(image).save(self.folder / f"{title} {number}, step {step:06d}.png")

    def close(self, failed: bool) -> None:
        """The run has stopped or come to its end; `failed`: by an error."""
        print(f"what was found is drawn in {self.folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--detector")
    parser.add_argument("--backbone-weights", default="imagenet")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--enough", type=float, default=0.9, help="AP50 at which the run stops")
    parser.add_argument("--out", default="runs/own-callback")
    asked = parser.parse_args()
    follower = Follower(Path(asked.out) / "followed", asked.enough)
    beginning = {"detector": asked.detector, "backbone_weights": asked.backbone_weights}
    try:
        onestage.train(asked.data, steps=asked.steps, out=asked.out, log_to=[follower], **beginning)
    except KeyboardInterrupt:  # of the follower or of a person; the best weights are in the run folder
        onestage.evaluate(asked.out, asked.data)


if __name__ == "__main__":
    main()
