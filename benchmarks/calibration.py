"""How far scores, and probabilities that are made of them in several ways, are from what is true.

    python benchmarks/calibration.py runs/mine MY-DATA --fit trainval:held-out --judge test

Each way is fitted on one split and judged on the other: negative log-likelihood, and expected calibration error over
all detections and over those above the thresholds of their classes. scikit-learn makes those that onestage lacks.
"""

import argparse

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from onestage.compute.device import choose_compute
from onestage.data_options import DataOptions
from onestage.evaluation.calibration import fit_calibration, reliability
from onestage.evaluation.voc import assign_detections
from onestage.jobs.dataset import open_dataset
from onestage.models.model_file import LoadedModel, load_model
from onestage.structures import DetectionTable
from onestage.terminal import quiet
from onestage.training.detect_all import detect_all

Columns = tuple[np.ndarray, np.ndarray, np.ndarray]  # scores, labels and hits of the detections that count


def detections(loaded: LoadedModel, data: str, split: str) -> Columns:
    options = DataOptions(skip_bad_data=True)
    table = open_dataset(data, split, display=quiet(), options=options, categories=loaded.categories)
    compute = choose_compute()
    compute.place(loaded.detector)
    found = DetectionTable.from_detections(detect_all(loaded.detector, table, compute))
    assigned = assign_detections(table.ground_truth(), found)
    counts = ~assigned.ignored
    return found.scores[counts], found.labels[counts], assigned.hit[counts]


def isotonic(scores: np.ndarray, hit: np.ndarray, asked: np.ndarray) -> np.ndarray:
    return IsotonicRegression(out_of_bounds="clip", y_min=0, y_max=1).fit(scores, hit).predict(asked)


def beta(scores: np.ndarray, hit: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Kull et al. 2017: logistic regression on log(s) and -log(1 - s)."""
    terms = [np.stack([np.log(one), -np.log1p(-one)], axis=1) for one in (scores, asked)]
    return LogisticRegression(C=np.inf).fit(terms[0], hit).predict_proba(terms[1])[:, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--fit", default="trainval:held-out")
    parser.add_argument("--judge", default="test")
    asked = parser.parse_args()
    loaded = load_model(asked.model)
    scores, labels, hit = detections(loaded, asked.data, asked.fit)
    judged, of_class, true = detections(loaded, asked.data, asked.judge)
    number = len(loaded.categories)
    own, shared = (fit_calibration(scores, kinds, hit, number) for kinds in (labels, np.zeros_like(labels)))
    if own is None or shared is None or loaded.thresholds is None:
        raise SystemExit(f"{asked.model}: too few hits, or no score thresholds; train it for longer")
    ways = {
        "scores": judged,
        "Platt on the logit, by class": own.probabilities(judged, of_class),
        "the same, of all classes together": shared.probabilities(judged, np.zeros_like(of_class)),
    }
    for name, way in (("isotonic", isotonic), ("beta", beta)):
        ways[f"{name}, by class"] = made = np.zeros(len(judged))
        for label in range(number):
            ours, theirs = labels == label, of_class == label
            made[theirs] = way(scores[ours], hit[ours], judged[theirs])
    above = judged > np.array(loaded.thresholds.scores)[of_class]
    print("way: error over all, above the thresholds, negative log-likelihood")
    for name, claims in ways.items():
        safe = claims.clip(1e-6, 1 - 1e-6)
        likelihood = -np.where(true, np.log(safe), np.log1p(-safe)).mean()
        over_all, over_above = reliability(claims, true), reliability(claims[above], true[above])
        print(f"{name}: {over_all.error:.3f}, {over_above.error:.3f}, {likelihood:.4f}")


if __name__ == "__main__":
    main()
