"""Charts as inline SVG."""

from __future__ import annotations

import numpy as np
from defusedxml import ElementTree

from onestage.evaluation.charts import Series, line_chart, ticks


def points(chart: str) -> list[str]:
    """The points of the chart's only line."""
    (line,) = ElementTree.fromstring(chart).findall(".//polyline")
    return (line.get("points") or "").split()


def test_ticks_are_round_numbers_within_the_range() -> None:
    assert np.allclose(ticks(0.0, 1.0, 5), [0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert np.allclose(ticks(3.0, 47.0, 4), [20, 40])
    assert np.allclose(ticks(0.0, 0.02, 4), [0, 0.005, 0.01, 0.015, 0.02])


def test_a_line_runs_from_the_left_bottom_to_the_right_top_of_its_axes() -> None:
    chart = line_chart(
        [Series("rise", np.array([0.0, 2.0]), np.array([0.0, 5.0]))],
        description="a rise",
        x_label="x",
        size_wh=(168, 142),  # 100 x 100 pixels inside the margins
    )

    assert points(chart) == ["56,108", "156,8"]


def test_values_that_are_not_finite_are_left_out_and_spikes_stay_inside() -> None:
    series = Series("loss", np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, np.nan, 99.0, np.inf]))

    chart = line_chart([series], description="loss", x_label="step", y_range=(0.0, 2.0), size_wh=(168, 142))

    assert points(chart) == ["56,58", "156,8"]


def test_a_long_line_is_drawn_by_the_means_of_its_parts() -> None:
    x = np.arange(100_000.0)

    chart = line_chart([Series("flat", x, np.tile([0.0, 2.0], 50_000))], description="d", x_label="x")

    assert len(points(chart)) == 300


def test_a_line_is_drawn_in_the_colour_that_the_legend_has() -> None:
    ends = np.array([0.0, 1.0])
    chart = line_chart([Series("claimed", ends, ends, 6)], description="claims", x_label="score")
    (line,) = ElementTree.fromstring(chart).findall(".//polyline")
    assert (line.get("class") or "").split() == ["line", "s6"]


def test_names_cannot_add_markup() -> None:
    series = Series("<script>alert(1)</script>", np.array([0.0, 1.0]), np.array([0.0, 1.0]), dots=True)

    chart = line_chart([series], description='"><b>', x_label="<i>")

    assert "<script" not in chart
    assert "<b>" not in chart
    assert "<i>" not in chart


def test_a_chart_of_one_point_or_none_has_axes() -> None:
    one = line_chart([Series("one", np.array([3.0]), np.array([0.0]))], description="d", x_label="x")
    none = line_chart([Series("none", np.zeros(0), np.zeros(0), filled=True)], description="d", x_label="x")

    assert ElementTree.fromstring(one).findall(".//text")
    assert ElementTree.fromstring(none).findall(".//text")
