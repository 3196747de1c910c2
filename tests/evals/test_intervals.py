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
