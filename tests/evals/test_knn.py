"""Nearest-neighbour classification."""

import jax
import numpy as np
import pytest

from jssl import evals


def _settings(data):
  return dict(
      k=int(data["k"]),
      temperature=float(data["temperature"]),
      num_classes=int(data["num_classes"]),
  )


def _inputs(data):
  return data["feature"], data["bank"], data["bank_labels"]


def test_predictions_agree_with_the_reference(golden):
  data = golden("knn")
  predicted = evals.knn_predict(*_inputs(data), **_settings(data))
  assert predicted.dtype == np.int32
  np.testing.assert_array_equal(predicted, data["predicted"])


@pytest.mark.parametrize("block_size", [1, 24, 64])
def test_blocks_do_not_change_the_predictions(golden, block_size):
  data = golden("knn")
  predicted = evals.knn_predict(
      *_inputs(data), **_settings(data), block_size=block_size
  )
  np.testing.assert_array_equal(predicted, data["predicted"])


def test_one_neighbour_is_the_nearest(golden):
  data = golden("knn")
  features, bank, labels = _inputs(data)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  nearest = np.argmax(unit(features) @ unit(bank).T, axis=-1)
  predicted = evals.knn_predict(features, bank, labels, k=1, num_classes=10)
  np.testing.assert_array_equal(predicted, labels[nearest])


def test_a_near_neighbour_outvotes_two_far_ones():
  bank = np.asarray([[1.0, 0.0], [0.5, 1.0], [0.5, -1.0]], np.float32)
  vote = lambda temperature: evals.knn_predict(
      bank[:1],
      bank,
      np.asarray([0, 1, 1]),
      k=3,
      temperature=temperature,
      num_classes=2,
  )
  # Similarities 1, 0.45, 0.45: exp(1 / T) against 2 exp(0.45 / T).
  assert vote(0.1)[0] == 0 and vote(10.0)[0] == 1


@pytest.mark.parametrize("temperature", [0.1, 0.01, 1e-4])
def test_a_low_temperature_does_not_overflow(temperature):
  angle = np.asarray([0.1, 0.2, 0.05])
  bank = np.stack([np.cos(angle), np.sin(angle)], -1).astype(np.float32)
  predicted = evals.knn_predict(
      np.asarray([[1.0, 0.0]], np.float32),
      bank,
      np.asarray([0, 1, 2]),
      k=3,
      temperature=temperature,
      num_classes=3,
  )
  assert predicted[0] == 2


@pytest.mark.parametrize("k", [0, 401])
def test_a_k_that_exceeds_the_bank_is_refused(golden, k):
  data = golden("knn")
  with pytest.raises(ValueError, match=f"k is {k}, .* 400 features"):
    evals.knn_predict(*_inputs(data), k=k, num_classes=10)


def test_shapes_that_do_not_fit_are_refused(golden):
  features, bank, labels = _inputs(golden("knn"))
  for inputs in (
      (features[:, :3], bank, labels),
      (features, bank, labels[:-1]),
  ):
    with pytest.raises(ValueError, match=r"\(400, 24\).*\[N, D\]"):
      evals.knn_predict(*inputs, k=5, num_classes=10)


@pytest.mark.parametrize(
    "wrong,message",
    [
        (-1, "2 of 400 labels are below 0.* features\\[labels >= 0\\]"),
        (10, "go up to 10, but num_classes is 10"),
    ],
)
def test_labels_of_no_class_are_refused(golden, wrong, message):
  features, bank, labels = _inputs(golden("knn"))
  labels = np.array(labels)
  labels[[3, 8]] = wrong
  with pytest.raises(ValueError, match=message):
    evals.knn_predict(features, bank, labels, k=5, num_classes=10)


def test_unlabelled_neighbours_do_not_vote_where_labels_are_traced():
  bank = np.eye(3, dtype=np.float32)
  features = np.asarray([[1.0, 0.5, 0.0]], np.float32)
  predict = jax.jit(
      lambda labels: evals.knn_predict(
          features, bank, labels, k=2, num_classes=3
      )
  )
  assert predict(np.asarray([-1, 1, 2]))[0] == 1


def test_a_sweep_is_each_setting_by_itself(golden):
  data = golden("knn")
  features, bank, labels = _inputs(data)
  ks, temperatures = (1, 7, 20), (0.05, 0.1, 1.0)
  classes = int(data["num_classes"])
  predicted = evals.knn_sweep(
      features,
      bank,
      labels,
      ks=ks,
      temperatures=temperatures,
      num_classes=classes,
      block_size=24,
  )
  assert predicted.shape == (3, 3, len(features))
  for i, k in enumerate(ks):
    for j, temperature in enumerate(temperatures):
      expected = evals.knn_predict(
          features,
          bank,
          labels,
          k=k,
          temperature=temperature,
          num_classes=classes,
      )
      np.testing.assert_array_equal(predicted[i, j], expected)
  assert np.any(predicted[0] != predicted[2])


def test_no_k_of_a_sweep_may_exceed_the_bank(golden):
  features, bank, labels = _inputs(golden("knn"))
  with pytest.raises(ValueError, match=f"k is {len(bank) + 1}, but the bank"):
    evals.knn_sweep(
        features,
        bank,
        labels,
        ks=(1, len(bank) + 1),
        temperatures=(0.1,),
        num_classes=10,
    )
