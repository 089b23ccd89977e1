"""Images that an int8 export is calibrated and measured on."""

from pathlib import Path

import pytest
import torch
from small_model import write_small_model

from onestage.data.generated import KINDS, write_generated_voc
from onestage.jobs.calibration import calibration_for
from onestage.jobs.dataset import open_dataset
from onestage.models.model_file import load_model
from onestage.structures import Detections
from onestage.terminal import quiet


def test_ap_is_measured_on_images_that_chose_the_weights_in_pixels_of_the_networks_input(tmp_path: Path) -> None:
    write_generated_voc(tmp_path / "data", train=12, test=2)
    model = load_model(write_small_model(tmp_path / "model.safetensors", names=tuple(KINDS)))
    calibration = calibration_for(tmp_path / "data", model, display=quiet())
    held_out = open_dataset(str(tmp_path / "data"), "trainval:held-out", display=quiet(), categories=model.categories)
    kept = open_dataset(str(tmp_path / "data"), "trainval:kept", display=quiet(), categories=model.categories)
    assert (len(calibration.images), len(calibration.measured)) == (len(kept), len(held_out))
    assert calibration.measured_on == "images of trainval:held-out"
    assert calibration.map_area is not None

    found, shifted = list[Detections](), list[Detections]()
    for index, read in enumerate(calibration.measured):
        image, objects = read(), held_out.objects(index)
        height, width = held_out.image_sizes_hw[index].tolist()
        scale = torch.tensor([image.shape[1] / width, image.shape[0] / height] * 2)
        boxes_xyxy, labels = torch.from_numpy(objects.boxes_xyxy) * scale, torch.from_numpy(objects.labels)
        assert image.shape[:2] != (height, width)
        found.append(Detections(boxes_xyxy, torch.ones(len(labels)), labels))
        shifted.append(Detections(boxes_xyxy + image.shape[0], torch.ones(len(labels)), labels))
    indices = range(len(found))
    assert calibration.map_area(indices, found) == pytest.approx(1.0)  # the annotated boxes themselves
    assert calibration.map_area(indices, shifted) == 0.0
