"""Case `evil-safetensors`: files with spoilt headers, cut or whole, each of which must end in one line at once.

python benchmarks/reliability/fuzzed_safetensors.py --files 100000
"""

from __future__ import annotations

import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from safetensors.torch import save_file

from onestage.errors import UserError
from onestage.models.weight_files import read_state_dict


@dataclass(frozen=True)
class Options:
    """How many, and which."""

    files: int = 100_000
    seed: int = 0


def main(options: Options) -> None:
    rng = np.random.default_rng(options.seed)
    refused = read = 0
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        good, file = Path(folder) / "good.safetensors", Path(folder) / "fuzzed.safetensors"
        save_file({"a": torch.ones(4, 4), "b": torch.zeros(3)}, good)
        content = good.read_bytes()
        header_end = 8 + struct.unpack("<Q", content[:8])[0]
        for _ in range(options.files):
            fuzzed = bytearray(content)
            for place in rng.integers(0, header_end, size=rng.integers(1, 6)):
                fuzzed[place] = rng.integers(256)
            file.write_bytes(fuzzed[: rng.integers(0, len(fuzzed) + 1)] if rng.random() < 0.3 else fuzzed)
            started = time.perf_counter()
            try:
                read_state_dict(file)
                read += 1
            except UserError as error:  # anything else ends the run with its traceback
                refused += 1
                if "\n" in str(error):
                    raise SystemExit(f"more than a line: {error}") from error
            slowest = max(slowest, time.perf_counter() - started)
    print(
        f"{options.files:,} files: {refused:,} refused in one line, {read:,} still whole; the slowest {slowest:.3f} s"
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
