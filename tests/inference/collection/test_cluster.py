"""How a cluster is divided among workers. Ray itself runs in tests/jobs/test_predict_collection.py."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet

from onestage.errors import UserError
from onestage.inference.collection.cluster import Workers, choose_workers, joined_cluster


def case(machines: list[dict[str, float]], expected: Workers, **options: object) -> ParameterSet:
    return pytest.param(machines, options, expected)


@pytest.mark.parametrize(
    ("machines", "options", "expected"),
    [
        case([{"CPU": 2}], Workers(2, 1)),
        case([{"CPU": 1}], Workers(1, 1)),
        case([{"CPU": 8}, {"CPU": 5}, {}], Workers(13, 1)),
        case([{"CPU": 2}], Workers(2, 1), concurrency=2),
        case([{"CPU": 2}], Workers(1, 2), concurrency=1),
        case([{"CPU": 2}], Workers(4, 0.5), concurrency=4),
        # 6 workers of 5 cores would be 30 of 32, but of a machine's 8 only one has place: 4 cores, two a machine
        case([{"CPU": 8}] * 4, Workers(6, 4), concurrency=6),
        case([{"CPU": 16, "GPU": 4}, {"CPU": 64}], Workers(4, 4, 1)),
        case([{"CPU": 16, "GPU": 4}, {"CPU": 16, "GPU": 2}], Workers(6, 4, 1)),
        case([{"CPU": 16, "GPU": 1}], Workers(2, 8, 0.5), gpus_per_worker=0.5),
        case([{"CPU": 16, "GPU": 4}], Workers(3, 4, 1), concurrency=3),
        case([{"CPU": 16, "GPU": 4}], Workers(16, 1), device="cpu"),
        case([{"CPU": 16, "GPU": 4}], Workers(16, 1), gpus_per_worker=0.0),
        case([{"CPU": 2, "GPU": 4}], Workers(4, 0.5, 1)),
    ],
)
def test_workers_share_all_cores_and_gpus_and_fit_on_the_machines(
    machines: list[dict[str, float]], options: dict, expected: Workers
) -> None:
    assert choose_workers(machines, **options) == expected


@pytest.mark.parametrize(
    ("machines", "options", "message"),
    [
        ([{"CPU": 2}], {"concurrency": 0}, "--concurrency 0: give 1 worker or more"),
        ([{"CPU": 2}], {"gpus_per_worker": 1.0}, "--gpus-per-worker 1: no machine of the cluster has so many"),
        ([{"CPU": 2, "GPU": 2}], {"gpus_per_worker": 1.5}, "--gpus-per-worker 1.5: give 0, a fraction of 1"),
        ([{"CPU": 2, "GPU": 2}], {"gpus_per_worker": -1.0}, "--gpus-per-worker -1: give 0"),
        ([{"CPU": 2}], {"device": "cuda"}, "--device cuda: no machine of the cluster has a GPU"),
        ([{"CPU": 2}], {"device": "cuda:1"}, "--device cuda:1: with --engine ray cpu or cuda"),
        ([{}], {}, "no machine of the cluster offers a core"),
    ],
)
def test_what_no_cluster_can_do_is_said(machines: list[dict[str, float]], options: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        choose_workers(machines, **options)


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        (Workers(1, 2), "1 worker with 2 cores"),
        (Workers(2, 1), "2 workers with 1 core"),
        (Workers(1200, 4, 0.5), "1,200 workers with 4 cores and 0.5 GPU"),
    ],
)
def test_the_division_is_said_in_words(workers: Workers, words: str) -> None:
    assert str(workers) == words


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_one_line(address: str) -> None:
    with pytest.raises(UserError, match=rf"^--address {address}: can't be joined \(.+\)$"), joined_cluster(address):
        pass
