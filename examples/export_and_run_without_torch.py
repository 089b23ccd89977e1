"""Export a model to ONNX, and run the file in a process that has no PyTorch.

    python examples/export_and_run_without_torch.py runs/mine street.jpg

The second process is this file again, with --run. On a machine without PyTorch, `pip install ./runtime` from a clone of
onestage brings all that it needs: NumPy, OpenCV, ONNX Runtime.
"""

import argparse
import subprocess
import sys
from pathlib import Path


def export(model: str) -> Path:
    import onestage

    return onestage.export_model(model, format="onnx").path  # compared with the model, and removed if it differs


def run(file: str, image: str) -> None:
    try:
        import onestage_runtime as runtime  # pyright: ignore[reportMissingImports]
    except ImportError:  # the same code is part of onestage
        from onestage import runtime

    predictor = runtime.load(file)
    found = predictor(image)
    for box, score, label in zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
        print(found.names[label], f"{score:.2f}", [round(side) for side in box])
    print(f"{len(found.scores)} found; PyTorch is", "loaded" if "torch" in sys.modules else "not loaded")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder or model.safetensors; with --run an exported file")
    parser.add_argument("image")
    parser.add_argument("--run", action="store_true", help="run an exported file")
    asked = parser.parse_args()
    if asked.run:
        run(asked.model, asked.image)
    else:
        subprocess.run([sys.executable, __file__, str(export(asked.model)), asked.image, "--run"], check=True)


if __name__ == "__main__":
    main()
