"""Quality and collapse without labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import evals
from jssl.config import ConfigDict
from jssl.data import Images
from jssl.embeddings import feature_std
from jssl.evals import quality, scores
from jssl.evals.features import Features


def _normal(count, dim):
  random = np.random.default_rng(0)
  return random.normal(size=(count, dim)).astype(np.float32)


def test_rankme_agrees_with_the_reference(golden):
  data = golden("rankme")
  rank = evals.rankme(data["z"], epsilon=float(data["epsilon"]))
  np.testing.assert_allclose(rank, data["rankme"], rtol=1e-5)


def test_rankme_counts_the_directions_that_are_used():
  one = np.outer(np.arange(1.0, 33.0), np.ones(8)).astype(np.float32)
  np.testing.assert_allclose(evals.rankme(one), 1.0, atol=1e-4)
  np.testing.assert_allclose(
      evals.rankme(np.eye(32, 8, dtype=np.float32)), 8.0, rtol=1e-4
  )
  three = np.eye(32, 8, dtype=np.float32) * (np.arange(8) < 3)
  np.testing.assert_allclose(evals.rankme(three), 3.0, rtol=1e-4)


def test_rankme_does_not_depend_on_the_scale_and_survives_zero():
  x = _normal(64, 8)
  np.testing.assert_allclose(evals.rankme(1000 * x), evals.rankme(x), rtol=1e-4)
  assert np.isfinite(evals.rankme(np.zeros((64, 8), np.float32)))


def test_rankme_refuses_feature_maps():
  with pytest.raises(ValueError, match=r"\(2, 4, 4, 8\); expected \[N, D\]"):
    evals.rankme(np.zeros((2, 4, 4, 8), np.float32))


def test_feature_std_is_zero_at_a_point_and_one_over_the_sphere():
  point = np.tile(_normal(1, 32), (512, 1))
  assert feature_std(point) < 1e-3
  # On one ray all directions are equal, whatever the lengths.
  assert feature_std(point * np.arange(1, 513)[:, None]) < 1e-3
  np.testing.assert_allclose(feature_std(_normal(4096, 32)), 1.0, atol=0.02)


def test_feature_std_of_shards_is_that_of_the_batch():
  x = _normal(32, 8) + np.arange(32)[:, None] / 8
  shards = jax.vmap(
      lambda x: feature_std(x, axis_name="shards"), axis_name="shards"
  )(x.reshape(4, 8, 8))
  np.testing.assert_allclose(shards, np.full(4, feature_std(x)), rtol=1e-5)


def test_feature_std_gives_no_gradient():
  gradient = jax.grad(feature_std)(jnp.asarray(_normal(8, 4)))
  np.testing.assert_array_equal(gradient, np.zeros((8, 4)))


@pytest.mark.parametrize(
    "signs,start",
    [
        ({"feature_std": 0.01}, "feature_std is 0.01, below 0.02"),
        ({"encoder_std": 0.01, "rank": 20.0}, "encoder_std is 0.01, below"),
        ({"encoder_std": 0.5, "rank": 1.05}, "rank is 1.05, below 1.2"),
    ],
)
def test_collapse_is_reported_with_its_value_and_a_remedy(signs, start):
  warning = quality.collapse_warning(signs)
  assert warning.startswith(start)
  assert "Lower the learning rate" in warning


@pytest.mark.parametrize(
    "signs",
    [{}, {"feature_std": 0.9, "encoder_std": 0.3, "rank": 12.0}, {"loss": 0.0}],
)
def test_healthy_features_give_no_warning(signs):
  assert quality.collapse_warning(signs) is None


@pytest.mark.parametrize("images", [1, 2, 9])
def test_a_few_images_show_no_collapse(images):
  one = {"encoder_std": 0.0, "rank": 1.0}
  assert quality.collapse_warning(one, images=images) is None
  assert "encoder_std" in quality.collapse_warning(one, images=10)
  # The loss's embeddings are those of a whole batch.
  signs = {**one, "feature_std": 0.01}
  assert "feature_std" in quality.collapse_warning(signs, images=images)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_alpha_is_the_power_by_which_variances_fall(alpha):
  # Orthogonal directions of exactly these variances.
  random = np.random.default_rng(0)
  basis, _ = np.linalg.qr(random.normal(size=(300, 64)))
  basis, _ = np.linalg.qr(basis - basis.mean(axis=0))
  rotation, _ = np.linalg.qr(random.normal(size=(64, 64)))
  deviations = np.arange(1, 65) ** (-alpha / 2)
  features = 5 + (basis * deviations) @ rotation
  np.testing.assert_allclose(
      evals.alpha_req(jnp.float32(features)), alpha, atol=0.01
  )


def test_alpha_is_the_weighted_fit_of_its_authors():
  # A spectrum that is not a power law: the weights matter.
  random = np.random.default_rng(0)
  variances = np.exp(-np.arange(1, 129) / 30) * random.uniform(0.5, 2, 128)
  variances = np.sort(variances)[::-1]
  basis, _ = np.linalg.qr(random.normal(size=(400, 129)))
  basis, _ = np.linalg.qr(basis - basis.mean(axis=0))
  features = basis[:, :128] * np.sqrt(variances)
  rank = np.arange(4, 101)
  # numpy squares its weights.
  slope, _ = np.polyfit(
      np.log(rank), np.log(variances[rank - 1]), 1, w=rank**-0.5
  )
  plain, _ = np.polyfit(np.log(rank), np.log(variances[rank - 1]), 1)
  assert abs(slope - plain) > 0.1
  np.testing.assert_allclose(
      evals.alpha_req(jnp.float32(features)), -slope, rtol=1e-3
  )


def test_alpha_leaves_out_the_direction_that_centring_takes():
  # 40 images have 39 directions about their mean; the 40th is rounding.
  features = _normal(40, 64)
  alpha = evals.alpha_req(features)
  np.testing.assert_allclose(
      alpha, evals.alpha_req(features, last=39), rtol=1e-6
  )
  assert 0 < alpha < 2


def test_rank_is_that_of_the_singular_values_of_all_rows():
  for shape in ((300, 20), (20, 300)):
    x = _normal(*shape) * np.arange(1, shape[1] + 1, dtype=np.float32) ** -0.5
    values = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    p = values / values.sum() + 1e-7
    expected = np.exp(-np.sum(p * np.log(p)))
    np.testing.assert_allclose(evals.rankme(x), expected, rtol=1e-4)


def test_the_rank_in_training_is_of_as_many_images_as_in_the_paper():
  # Half of the directions are seen in every 30th image only.
  x = _normal(6000, 32)
  x[:, 16:] *= (np.arange(6000) % 30 == 7)[:, None]
  blank = np.zeros((6000, 1, 1, 1), np.uint8)
  images = Images(blank, label=None, extent=None, classes=(), skipped=())
  features = Features(None, {"pooled": x})
  settings = ConfigDict(dict(k=1, temperature=0.1))
  found = scores.quick(features, images, images, settings)["rank"]
  np.testing.assert_allclose(found, evals.rankme(x), rtol=1e-5)
  assert quality.RANK_IMAGES == 25_600


def test_alpha_needs_directions_to_fit():
  with pytest.raises(ValueError, match="have 4 directions.* number 4"):
    evals.alpha_req(jnp.zeros((100, 4)))
  with pytest.raises(ValueError, match="expected"):
    evals.alpha_req(jnp.zeros((4, 4, 8)))


def test_alignment_is_the_squared_distance_of_unit_features():
  one = jnp.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
  other = jnp.array([[5.0, 0.0], [2.0, 0.0], [-1.0, -1.0]])
  np.testing.assert_allclose(
      evals.alignment(one, other), (0 + 2 + 4) / 3, rtol=1e-5
  )
  with pytest.raises(ValueError, match=r"\(3, 2\) and positives \(2, 2\)"):
    evals.alignment(one, other[:2])


def test_uniformity_is_the_mean_potential_of_pairs():
  features = jnp.array([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
  # Squared distances 2, 2 and 4.
  expected = np.log((2 * np.exp(-4) + np.exp(-8)) / 3)
  np.testing.assert_allclose(evals.uniformity(features), expected, rtol=1e-5)
  np.testing.assert_allclose(evals.uniformity(jnp.ones((5, 3))), 0, atol=1e-5)
  with pytest.raises(ValueError, match="N of at least 2"):
    evals.uniformity(features[:1])
