"""One predictor in several threads, as a web service or a queue of jobs has it.

    python examples/predict_in_threads.py runs/mine street/*.jpg --threads 4

Each answer is that of its own image. Threads don't make the network faster, since they share the cores; a list does,
because its images go through the network together.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

import onestage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder, model.safetensors or an exported file")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--score-threshold", type=float, help="for all classes; left out: the model's own")
    asked = parser.parse_args()
    predictor = onestage.load(asked.model)
    if asked.score_threshold is not None:  # it counts for all threads, so it is set before they start
        predictor.selection = predictor.selection.changed(score_threshold=asked.score_threshold)

    started = time.perf_counter()
    with ThreadPoolExecutor(asked.threads) as threads:
        found = list(threads.map(predictor, asked.images))
    in_threads = time.perf_counter() - started
    together = predictor(asked.images)
    in_a_list = time.perf_counter() - started - in_threads

    for image, one, other in zip(asked.images, found, together, strict=True):
        print(f"{image}: {len(one)} found in a thread, {len(other)} in the list")
    print(f"{len(asked.images)} images: {in_threads:.2f} s in {asked.threads} threads, {in_a_list:.2f} s as a list")


if __name__ == "__main__":
    main()
