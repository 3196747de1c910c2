"""Confidence intervals."""

import numpy as np
import pytest

from jssl.evals import intervals


def test_the_interval_over_images_is_wilsons():
  # 8 of 10; z = 1.959964.
  predicted = np.array([1] * 8 + [0] * 2)
  result = intervals.of_images(predicted, np.ones(10, int))
  z, n, p = 1.959964, 10, 0.8
  center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
  half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
  assert result["accuracy"] == 0.8
  np.testing.assert_allclose(
      result["interval"], [center - half, center + half], rtol=1e-5
  )


@pytest.mark.parametrize("right", [0, 20])
def test_the_interval_stays_between_0_and_1(right):
  predicted = np.arange(20) < right
  low, high = intervals.of_images(predicted, np.ones(20, bool))["interval"]
  assert 0 <= low < high <= 1


def test_the_interval_over_draws_is_students():
  result = intervals.of_draws([0.5, 0.6, 0.7])
  assert result["accuracy"] == pytest.approx(0.6)
  assert result["std"] == pytest.approx(0.1)
  half = 4.302653 * 0.1 / np.sqrt(3)  # t of 2 degrees of freedom.
  np.testing.assert_allclose(
      result["interval"], [0.6 - half, 0.6 + half], rtol=1e-5
  )


_GRID = {"rate": (0.1, 1.0, 10.0), "decay": (0.0, 0.1, 1.0)}


@pytest.mark.parametrize(
    "best,expected",
    [
        ((1, 1), ()),
        ((2, 1), ("rate",)),
        ((0, 1), ("rate",)),
        ((1, 2), ("decay",)),
        ((2, 2), ("rate", "decay")),
        ((1, 0), ()),  # There is no decay below 0.
        ((2, 0), ("rate",)),
    ],
)
def test_the_edge_of_a_grid_is_named_if_it_is_best(best, expected):
  scores = np.full((3, 3), 0.5)
  scores[best] = 0.6
  found = intervals.at_edge(scores, best, _GRID, limits={"decay": 0.0})
  assert found == expected


def test_an_edge_that_is_not_better_than_the_inside_is_not_named():
  scores = np.full((3, 3), 0.5)
  assert intervals.at_edge(scores, (2, 2), _GRID, limits={}) == ()
  scores[2, 2] = scores[1, 2] = 0.6
  assert intervals.at_edge(scores, (2, 2), _GRID, limits={}) == ("decay",)
  # A single value leaves no choice.
  one = {"rate": (0.1,), "decay": (0.0, 1.0)}
  assert intervals.at_edge(np.ones((1, 2)), (0, 1), one, limits={}) == ()


def test_images_without_a_label_are_refused():
  with pytest.raises(ValueError, match="1 of 3 labels are below 0"):
    intervals.of_images(np.array([0, 1, 1]), np.array([0, 1, -1]))
