"""Train a detector, and draw what it finds.

python examples/train_and_predict.py MY-DATA --minutes 10
python examples/train_and_predict.py                         # images are drawn first; three minutes
"""

import argparse
from pathlib import Path

import onestage
from onestage.data.generated import write_generated_voc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="folder of labelled images, as your labelling tool wrote it")
    parser.add_argument("--detector", help="as of `onestage train`; leave it out for the usual one")
    parser.add_argument("--backbone-weights", default="imagenet", help="imagenet, none, or a file")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--steps", type=int, help="instead of minutes")
    parser.add_argument("--out", default="runs/example", help="run folder, a new one")
    asked = parser.parse_args()
    if asked.data is None:
        asked.data = "drawn"
        write_generated_voc(asked.data, train=200, test=40)

    length = {"minutes": asked.minutes} if asked.steps is None else {"steps": asked.steps}
    beginning = {"detector": asked.detector, "backbone_weights": asked.backbone_weights}
    run = onestage.train(asked.data, out=asked.out, **beginning, **length)
    print(f"AP50 {run.metrics['voc']['map_area'] or 0:.3f}; the report: {run.folder / 'report.html'}")

    predictor = onestage.load(run.folder)
    for image in sorted(Path(asked.data).rglob("*.jpg"))[:4]:
        found = predictor(image)  # above the score thresholds that training found for each class
        for one in found:
            print(image.name, one.name_of(int(one.labels)), f"{float(one.scores):.2f}", one.boxes_xyxy[0].tolist())
        found.show(image).save(run.folder / f"{image.stem}.png")


if __name__ == "__main__":
    main()
