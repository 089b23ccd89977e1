"""int8 for OpenVINO: NNCF quantises weights and inputs of the convolutions, by what it sees on calibration images.

What comes before the first convolutions (resizing, normalisation) and after the last ones (decoding, NMS) stays in
float32, and so do the first and the last convolutions themselves: scores and places of boxes are read off the last
ones. That takes some of the pace, but without it int8 costs three points of AP50 instead of half a point
(docs/ledger.md, "Exported files"). AP is measured on images that did not train the model. If it falls by more than
`MAX_LOSS_OF_AP`, the other way is tried, and the better one is taken.
"""

import logging
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import openvino

from onestage.compute.threads import kept_signal_stack
from onestage.export.base import Calibration, Read, as_detections
from onestage.export.openvino import PRECISION, skip_resizing
from onestage.export.openvino_walks import CONVOLUTIONS, names, names_up_to_convolutions, readers, sources
from onestage.runtime.detections import DetectionArrays
from onestage.runtime.session import Outputs
from onestage.runtime.threads import cpu_threads
from onestage.structures import Detections
from onestage.terminal import Stage

CALIBRATION_THRESHOLD = 0.05  # score threshold while NNCF observes the network; it has no effect on what is observed
MAX_LOSS_OF_AP = 0.005  # `map_area` that int8 may cost


# How numbers between the layers are quantised, in NNCF's words; the one that is tried first mostly serves.
WAYS = ("performance", "mixed")


@dataclass(frozen=True)
class Worth:
    """What a graph is worth on the images of a calibration: `map_area`, NaN where there is none, and its pace."""

    map_area: float
    seconds_an_image: float


def quantised(graph: Any, calibration: Calibration, score_threshold: float) -> Any:
    """The graph in int8; what that cost is shown on `calibration.display`.

    With `calibration.search`, NNCF takes one operation after the other back to float32 instead, those first that cost
    most, until AP is near enough.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # NNCF looks for CUDA, which nobody needs
    import nncf  # takes seconds, so only for int8; sets its logger's level

    graph = graph.clone()  # otherwise soft-NMS's loop shares operations with its surroundings, which NNCF can't follow
    nncf.set_log_level(logging.ERROR)
    with kept_signal_stack(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NNCF's warnings about other frameworks
        if calibration.map_area is None:
            return _in_int8(graph, calibration, WAYS[0])
        before = _worth(graph, calibration, score_threshold, "measuring float32")
        if calibration.search:
            best = _searched(graph, calibration, score_threshold)
            worth = _worth(best, calibration, score_threshold, "measuring int8")
        else:
            best, worth = _best_way(graph, calibration, score_threshold, before.map_area)
    calibration.display.say(
        f"int8: AP50 {worth.map_area:.3f}, in float32 {before.map_area:.3f}, on {len(calibration.measured)} "
        f"{calibration.measured_on}; {before.seconds_an_image / worth.seconds_an_image:.1f} times the pace"
    )
    if before.map_area - worth.map_area > MAX_LOSS_OF_AP and not calibration.search:
        how = "--search looks for layers to keep in float32, one after the other: many minutes, better AP"
        calibration.display.say(how)
    return best


def _best_way(graph: Any, calibration: Calibration, score_threshold: float, aim: float) -> tuple[Any, Worth]:
    """The first way that is near enough to the AP `aim`, else the best of all."""
    tried: list[tuple[Any, Worth]] = []
    for number, way in enumerate(WAYS, 1):
        in_int8 = _in_int8(graph, calibration, way)
        tried.append((in_int8, _worth(in_int8, calibration, score_threshold, f"measuring int8, way {number}")))
        worth = tried[-1][1]
        if aim - worth.map_area <= MAX_LOSS_OF_AP:
            break
    return max(tried, key=lambda one: one[1].map_area)


def _in_int8(graph: Any, calibration: Calibration, way: str) -> Any:
    import nncf

    images = calibration.images
    with calibration.display.stage(f"quantising, way {WAYS.index(way) + 1}", 0) as stage:
        return nncf.quantize(
            graph.clone(),
            nncf.Dataset(range(len(images)), partial(_observed, images, stage)),
            subset_size=len(images),
            preset=nncf.QuantizationPreset(way),
            ignored_scope=_ignored(graph),
        )


def _observed(images: Sequence[Read], stage: Stage, index: int) -> dict[str, np.ndarray]:
    """The inputs for an image; NNCF looks at each several times."""
    stage.advance()
    return _inputs(images[index](), CALIBRATION_THRESHOLD)


def _searched(graph: Any, calibration: Calibration, score_threshold: float) -> Any:
    import nncf

    images, measured, map_area = calibration.images, calibration.measured, calibration.map_area
    assert map_area is not None

    def measure(compiled: Any, indices: Iterable[int]) -> tuple[float, list[float]]:
        """AP of all images together, and of each alone: NNCF would run all images again to get the latter."""
        indices = list(indices)
        stage.advance(len(indices))
        found = [_detections(compiled(_inputs(measured[index](), score_threshold))) for index in indices]
        return map_area(indices, found), [map_area([index], [one]) for index, one in zip(indices, found, strict=True)]

    with calibration.display.stage("looking for layers to keep in float32", 0) as stage:
        return nncf.quantize_with_accuracy_control(
            graph,
            nncf.Dataset(range(len(images)), partial(_observed, images, stage)),
            nncf.Dataset(range(len(measured)), lambda index: index),
            measure,
            max_drop=MAX_LOSS_OF_AP,
            subset_size=len(images),
            ignored_scope=_ignored(graph),
        )


def _worth(graph: Any, calibration: Calibration, score_threshold: float, what: str) -> Worth:
    """AP on the images to measure on, which have the network's size, and the median time of one."""
    graph = graph.clone()
    skip_resizing(graph)
    settings = {"INFERENCE_PRECISION_HINT": PRECISION, "INFERENCE_NUM_THREADS": cpu_threads()}
    compiled = openvino.Core().compile_model(graph, "CPU", settings)
    found, seconds = list[Detections](), list[float]()
    with calibration.display.stage(what, len(calibration.measured)) as stage:
        for read in calibration.measured:
            inputs, started = _inputs(read(), score_threshold), time.perf_counter()
            found.append(_detections(compiled(inputs)))
            seconds.append(time.perf_counter() - started)
            stage.advance()
    assert calibration.map_area is not None
    return Worth(calibration.map_area(range(len(found)), found), float(np.median(seconds)))


def _inputs(image: np.ndarray, score_threshold: float) -> dict[str, np.ndarray]:
    return {"images": image[None], "score_threshold": np.array([score_threshold], dtype=np.float32)}


def _detections(outputs: Any) -> Detections:
    """The detections in a compiled graph's outputs for one image, without class names."""
    boxes_xyxy, scores, labels, counts = (outputs[name] for name in Outputs._fields)
    rows = (0, slice(int(counts[0])))
    return as_detections(DetectionArrays(boxes_xyxy[rows], scores[rows], labels[rows].astype(np.int64), ()))


# --- which operations are quantised


def _ignored(graph: Any) -> Any:
    """What stays in float32: the first and the last convolutions, and all that lies before and behind them."""
    import nncf

    results = [source for result in graph.get_results() for source in sources(result)]
    behind = names_up_to_convolutions(results, sources)
    before = names_up_to_convolutions(graph.get_parameters(), readers)
    outside = behind | before
    for node in graph.get_ordered_ops():
        if node.get_type_name() in CONVOLUTIONS:
            is_first = not names(sources(node)).isdisjoint(before)
            is_last = not names(readers(node)).isdisjoint(behind)
            outside |= names([node]) if is_first or is_last else set()
    return nncf.IgnoredScope(names=sorted(outside), validate=False)
