"""One-stage object detectors (SSD, RetinaNet, M2Det, GFL) in PyTorch: train on your images, evaluate, predict, ship.

    import onestage

    onestage.train("my-data", detector="ssd300-tf_efficientnet_lite0", minutes=30, out="runs/mine")
    onestage.evaluate("runs/mine", "my-data")
    onestage.compare(["runs/mine-before", "runs/mine"])
    predictor = onestage.load("runs/mine")
    detections = predictor("image.jpg")

Heavy imports happen when a name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onestage.detectors import build
    from onestage.errors import UserError
    from onestage.inference.predictor import Predictor, load
    from onestage.jobs.compare import compare
    from onestage.jobs.convert import convert
    from onestage.jobs.demo import demo
    from onestage.jobs.doctor import doctor
    from onestage.jobs.evaluate import evaluate
    from onestage.jobs.export import export_model
    from onestage.jobs.import_checkpoint import import_checkpoint
    from onestage.jobs.info import info
    from onestage.jobs.predict import predict
    from onestage.jobs.predict_collection import predict_collection
    from onestage.jobs.push import push
    from onestage.jobs.recipes import list_recipes
    from onestage.jobs.replay import replay
    from onestage.jobs.serve import serve
    from onestage.jobs.train import train
    from onestage.models.import_weights import import_weights
    from onestage.structures import Categories, Detections

__version__ = "0.1.0"

__all__ = [
    "Categories",
    "Detections",
    "Predictor",
    "UserError",
    "build",
    "compare",
    "convert",
    "demo",
    "doctor",
    "evaluate",
    "export_model",
    "import_checkpoint",
    "import_weights",
    "info",
    "list_recipes",
    "load",
    "predict",
    "predict_collection",
    "push",
    "replay",
    "serve",
    "train",
]

# Modules by name, below `onestage`; what is not here lies in `jobs`, in a module of its own name.
_HOMES = {
    "Categories": "structures",
    "Detections": "structures",
    "Predictor": "inference.predictor",
    "UserError": "errors",
    "build": "detectors",
    "export_model": "jobs.export",
    "import_weights": "models.import_weights",
    "list_recipes": "jobs.recipes",
    "load": "inference.predictor",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'onestage' has no attribute {name!r}")
    home = _HOMES.get(name, f"jobs.{name}")
    found = getattr(importlib.import_module(f"onestage.{home}"), name)
    if not home.startswith("jobs."):
        return found
    from onestage.arguments import checked

    return checked(found)


def __dir__() -> list[str]:
    return __all__
