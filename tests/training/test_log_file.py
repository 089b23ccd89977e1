"""`log.csv`: what is written comes back, also after a resume."""

from pathlib import Path

from onestage.training.log_file import LogRow, append_rows, begin_log, read_log


def row(step: int, map_area: float | None = None) -> LogRow:
    return {
        "step": step,
        "epoch": step / 4,
        "images": step * 8,
        "lr": 1e-3,
        "loss": 3.0,
        "classification_loss": 2.0,
        "box_loss": 1.0,
        "images_per_second": 5.5,
        "seconds": step * 1.5,
        "map_area": map_area,
    }


def test_the_log_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path, rows = tmp_path / "log.csv", [row(10), row(20, map_area=0.25)]
    assert read_log(path) == []
    begin_log(path)
    assert read_log(path) == []
    for one in rows:
        append_rows(path, [one])
    assert read_log(path) == rows
    assert path.read_text().splitlines()[:2] == [
        "step,epoch,images,lr,loss,classification_loss,box_loss,images_per_second,seconds,map_area",
        "10,2.5,80,0.001,3,2,1,5.5,15,",
    ]


def test_a_resumed_run_drops_the_rows_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    append_rows(path, [row(step, map_area=1 / 3) for step in (10, 12_345_678, 20_000_000)])
    before = path.read_text().splitlines()
    begin_log(path, resume_at_step=12_345_678)
    assert path.read_text().splitlines() == before[:3]
    append_rows(path, [row(12_345_680)])
    assert [one["step"] for one in read_log(path)] == [10, 12_345_678, 12_345_680]


def test_a_new_run_begins_a_new_log(tmp_path: Path) -> None:
    append_rows(tmp_path / "log.csv", [row(10)])
    begin_log(tmp_path / "log.csv")
    assert read_log(tmp_path / "log.csv") == []
