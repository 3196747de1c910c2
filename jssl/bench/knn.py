"""The time to evaluate features: kNN and the grid of linear probes."""

from typing import Any

import jax

from jssl.bench._timing import median_seconds
from jssl.evals import knn, linear

_CLASSES = 10
_PROBE_EPOCHS = 5  # Enough, since all epochs cost the same.


def measure(
    *, queries: int, bank: int, dim: int, k: int, windows: int = 5
) -> dict[str, Any]:
  """Times both on random features; only their shapes matter.

  Args:
    queries: Number of features to classify.
    bank: Number of labelled features.
    dim: Size of a feature.
    k: Number of neighbours that vote.
    windows: Number of timings, of which the median is returned.

  Returns:
    Seconds of kNN and per epoch of the whole grid of linear probes, and the
    ratio of the grid's time to that of one of its settings.

  Raises:
    ValueError: If k exceeds the bank.
  """
  query_key, bank_key, label_key, fit_key = jax.random.split(
      jax.random.key(0), 4
  )
  features = jax.random.normal(query_key, (queries, dim))
  known = jax.random.normal(bank_key, (bank, dim))
  labels = jax.random.randint(label_key, known.shape[:1], 0, _CLASSES)
  grid = linear.make_grid(linear.LEARNING_RATES, linear.WEIGHT_DECAYS)

  def seconds_of(settings):
    return median_seconds(
        lambda: linear.fit(
            fit_key,
            known,
            labels,
            *settings,
            num_classes=_CLASSES,
            epochs=_PROBE_EPOCHS,
        ),
        windows=windows,
    )

  nearest = median_seconds(
      lambda: knn.knn_predict(
          features, known, labels, k=k, num_classes=_CLASSES
      ),
      windows=windows,
  )
  one, whole = seconds_of(grid[:, :1]), seconds_of(grid)
  return {
      "knn_seconds": nearest,
      "probe_settings": grid.shape[1],
      "probe_seconds_an_epoch": whole / _PROBE_EPOCHS,
      "probe_grid_over_one_setting": whole / one,
      "device": jax.devices()[0].device_kind,
  }
