"""Two ranks of a run, as threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from onestage.training.processes import World

T = TypeVar("T")
PATIENCE_S = 30


class Threads(World):
    """Values are gathered and summed on a board that both ranks see; networks are not connected."""

    size = 2

    def __init__(self, rank: int, barrier: threading.Barrier, board: dict[int, Any]) -> None:
        super().__init__()
        self.rank, self._barrier, self._board = rank, barrier, board

    def gather(self, value: Any) -> list[Any]:
        self._board[self.rank] = value
        self._barrier.wait(PATIENCE_S)
        values = [self._board[rank] for rank in range(self.size)]
        self._barrier.wait(PATIENCE_S)
        return values

    def sum(self, values: Tensor) -> Tensor:
        return sum(self.gather(values), torch.zeros_like(values))

    def from_main(self, value: T) -> T:
        return self.gather(value)[0]

    def on_main(self, work: Callable[[], T]) -> T:
        return self.gather(work() if self.is_main else None)[0]

    @classmethod
    def run(cls, work: Callable[[World], T]) -> list[T]:
        """The results of some work, by rank."""
        barrier, board, results = threading.Barrier(cls.size), {}, {}
        worlds = [cls(rank, barrier, board) for rank in range(cls.size)]
        threads = [
            threading.Thread(target=lambda world=world: results.update({world.rank: work(world)})) for world in worlds
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE_S)
        return [results[rank] for rank in range(cls.size)]
