"""Ultralytics: a YOLO of any name, its own recipe for the minutes (`time=`), exported as OpenVINO int8.

Its ImageNet and COCO weights are downloads that no package carries: from scratch. The name may end in the size of its
input: yolo11n-320; without, it is 640.
"""

from __future__ import annotations

import time

from job import Find, Found, Job, main
from ultralytics import YOLO


def _name_and_size(model: str) -> tuple[str, int]:
    name, _, size = model.partition("-")
    return name, int(size or 640)


def train(job: Job) -> float:
    name, size = _name_and_size(job.model)
    data = str(job.data / "yolo" / "data.yaml")
    start = time.perf_counter()
    YOLO(f"{name}.yaml").train(
        data=data,
        imgsz=size,
        time=job.minutes / 60,
        device="cpu",
        project=str(job.run),
        name="train",
        exist_ok=True,
        seed=job.seed,
        pretrained=False,
        workers=2,
        plots=False,
    )
    seconds = time.perf_counter() - start
    YOLO(job.run / "train" / "weights" / "best.pt").export(format="openvino", int8=True, data=data, imgsz=size)
    return seconds


def load(job: Job) -> Find:
    size = _name_and_size(job.model)[1]
    model = YOLO(job.run / "train" / "weights" / "best_int8_openvino_model", task="detect")

    def find(file: str) -> Found:
        found = model.predict(file, imgsz=size, conf=0.001, verbose=False, device="cpu")[0].boxes
        return found.cls.tolist(), found.conf.tolist(), found.xyxy.tolist()

    return find


if __name__ == "__main__":
    main(train, load)
