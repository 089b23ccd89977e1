"""Several training processes share the batches of one: the same samples, no matter how many processes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from data.test_loader import a_table, assert_same, train
from hypothesis import assume, given, settings

from onestage.data.augmentation.presets import MILD
from onestage.data.loader import evaluation_loader
from onestage.data.table import Table
from onestage.errors import UserError
from onestage.input_size import KeepRatio, Resize, Stretch
from onestage.structures import Batch

SIZES = range(1, 9)


@pytest.fixture(scope="module")
def tables() -> Iterator[dict[int, Table]]:
    """By the number of their images."""
    with tempfile.TemporaryDirectory() as name:
        yield {size: a_table(Path(name) / str(size), size) for size in SIZES}


def merged(parts: list[Batch]) -> Batch:
    """The batch whose sample p is number p // n of part p % n."""
    total, ranks = sum(len(part.images) for part in parts), len(parts)
    places = [(place % ranks, place // ranks) for place in range(total)]
    return Batch(
        torch.stack([parts[rank].images[number] for rank, number in places]),
        [parts[rank].targets[number] for rank, number in places],
        torch.stack([parts[rank].image_indices[number] for rank, number in places]),
    )


@settings(max_examples=25)
@given(
    size=st.sampled_from(SIZES),
    ranks=st.integers(1, 5),
    batch_size=st.integers(1, 10),
    repeat=st.integers(1, 2),
    resize=st.sampled_from([Stretch(32), KeepRatio(40, 80)]),
)
def test_the_parts_of_all_ranks_are_the_batch_of_one_process(
    tables: dict[int, Table], size: int, ranks: int, batch_size: int, repeat: int, resize: Resize
) -> None:
    assume(min(batch_size, size * repeat) >= ranks)
    setting = {"resize": resize, "batch_size": batch_size, "repeat": repeat, "augmentation": MILD}
    whole = train(tables[size], 3, **setting)
    parts = [train(tables[size], 3, shard=(rank, ranks), **setting) for rank in range(ranks)]
    assert_same(whole, [merged(list(of_one_step)) for of_one_step in zip(*parts, strict=True)])


def test_a_rank_has_every_nth_sample_of_a_batch(tables: dict[int, Table]) -> None:
    (whole,) = train(tables[7], 1, batch_size=7)
    (part,) = train(tables[7], 1, batch_size=7, shard=(1, 3))
    assert part.image_indices.tolist() == [whole.image_indices[1], whole.image_indices[4]]


def test_a_resumed_rank_sees_what_it_would_have_seen(tables: dict[int, Table]) -> None:
    setting = {"batch_size": 4, "shard": (1, 2)}  # two batches an epoch
    assert_same(train(tables[8], 5, **setting)[3:], train(tables[8], 2, **setting, start=(1, 1)))


@pytest.mark.parametrize(("size", "batch_size", "images"), [(8, 2, 2), (2, 8, 2), (1, 1, 1)])
def test_a_batch_that_leaves_a_rank_without_an_image_is_refused(
    tables: dict[int, Table], size: int, batch_size: int, images: int
) -> None:
    with pytest.raises(UserError, match=f"batches of {images} images can't be shared by 3 processes") as caught:
        train(tables[size], 1, batch_size=batch_size, shard=(0, 3))
    assert "\n" not in str(caught.value)


@settings(max_examples=25)
@given(size=st.sampled_from(SIZES), ranks=st.integers(1, 5), batch_size=st.integers(1, 10))
def test_ranks_evaluate_the_batches_of_one_process_in_turn(
    tables: dict[int, Table], size: int, ranks: int, batch_size: int
) -> None:
    def evaluate(rank: int, ranks: int) -> list[Batch]:
        resize = KeepRatio(40, 80)
        return list(evaluation_loader(tables[size], resize=resize, batch_size=batch_size, shard=(rank, ranks)))

    parts = [evaluate(rank, ranks) for rank in range(ranks)]
    whole = evaluate(0, 1)
    for rank, part in enumerate(parts):
        assert_same(part, [batch for number, batch in enumerate(whole) if number % ranks == rank])
    shown = [index for part in parts for batch in part for index in batch.image_indices.tolist()]
    assert sorted(shown) == list(range(size))


def test_a_rank_may_have_nothing_to_evaluate(tables: dict[int, Table]) -> None:
    loader = evaluation_loader(tables[3], resize=Stretch(32), batch_size=2, shard=(2, 3))
    assert list(loader) == []
