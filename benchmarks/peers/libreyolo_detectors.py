"""LibreYOLO: a family and size (yolo9-t, yolox-n, picodet-s), its own recipe, exported as OpenVINO int8.

Its weights are downloads that no package carries: from scratch. It has no length in minutes: an epoch with its
validation is timed first, and as many epochs are asked for as fit into the minutes.
"""

from __future__ import annotations

import time

from job import Find, Found, Job, main
from libreyolo import LibreYOLO, LibreYOLO9, LibreYOLOX
from libreyolo.models.picodet.model import LibrePICODET

FAMILIES = {"yolo9": LibreYOLO9, "yolox": LibreYOLOX, "picodet": LibrePICODET}
TIMED = 2  # epochs


def train(job: Job) -> float:
    family, _, size = job.model.partition("-")
    data = str(job.data / "yolo" / "data.yaml")

    def run(epochs: int, name: str) -> float:
        start = time.perf_counter()
        model = FAMILIES[family](None, size=size, device="cpu")
        model.train(
            data=data,
            epochs=epochs,
            device="cpu",
            workers=2,
            project=str(job.run),
            name=name,
            exist_ok=True,
            seed=job.seed,
            pretrained=False,
        )
        return time.perf_counter() - start

    epochs = max(1, round(60 * job.minutes / (run(TIMED, "timed") / TIMED)))
    seconds = run(epochs, "train")
    best = job.run / "train" / "weights" / "best.pt"
    LibreYOLO(str(best), device="cpu").export(
        format="openvino", int8=True, data=data, output_path=str(job.run / "int8_openvino")
    )
    return seconds


def load(job: Job) -> Find:
    model = LibreYOLO(str(job.run / "int8_openvino"), device="cpu")

    def find(file: str) -> Found:
        found = model(file, conf=0.001).boxes
        return found.cls.tolist(), found.conf.tolist(), found.xyxy.tolist()

    return find


if __name__ == "__main__":
    main(train, load)
