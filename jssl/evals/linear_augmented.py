"""The linear probe on augmented images: the protocol of ImageNet."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jssl.augment import make_views
from jssl.embeddings import AnyArray
from jssl.evals import checks, linear, minibatches
from jssl.evals.linear import LinearProbe

PyTree = Any


def augmented_linear_probe(
    key: jax.Array,
    encode: Callable[[PyTree, jax.Array], dict[str, jax.Array]],
    params: PyTree,
    images: minibatches.Arrays,
    features: dict[str, AnyArray],
    test_features: dict[str, AnyArray],
    *,
    num_classes: int,
    augment: Callable[..., jax.Array],
    learning_rates: Sequence[float] = linear.LEARNING_RATES,
    weight_decays: Sequence[float] = linear.WEIGHT_DECAYS,
    epochs: int = 100,
    batch_size: int = 256,
    validation_fraction: float = 0.1,
) -> dict[str, LinearProbe]:
  """Classifies by regressions that see new views of the images every epoch.

  The encoder is frozen, and encodes every image once per epoch: unlike in
  `linear_probe`, its features cannot be kept. All settings of all stages learn
  from the same views at the same time. The held-out part and the test images
  are not augmented.

  Args:
    key: A PRNG key, for the held-out part, the order and the views.
    encode: `(params, views) -> {stage: [B, D]}`, of views `[B, h, w, C]` in
      [0, 1].
    params: The first argument of `encode`.
    images: Training images: "image" uint8 `[N, H, W, C]`, "label" int `[N]` in
      [0, num_classes) and, for images on a canvas, "extent" `[N, 2]`.
    features: For each stage, the features of the images without augmentation,
      `[N, D]`. They give the mean and deviation, and choose the setting.
    test_features: Features to classify, `[M, D]` for each stage.
    num_classes: Number of classes.
    augment: The recipe, `(key, image, *, extent) -> view`.
    learning_rates: See `linear_probe`.
    weight_decays: See `linear_probe`.
    epochs: Passes over the images.
    batch_size: Images per step, at most as many as there are.
    validation_fraction: Share that is held out to choose a setting, in (0, 1).
      The probe is not trained again on all images, which would double the time.

  Returns:
    The probe of each stage.

  Raises:
    ValueError: If too few images remain to choose a setting, or a label is not
      a class (such as -1).

  Reference:
    He et al., Momentum Contrast for Unsupervised Visual Representation
    Learning, 2020, section 4.1, except for the grid.

  Example:
    >>> import jax
    >>> import numpy as np
    >>> from jssl import augment, evals
    >>> labels = np.arange(60) % 3  # Dark, gray and bright images.
    >>> noise = np.random.default_rng(0).integers(0, 40, (60, 4, 4, 1))
    >>> images = np.uint8(noise + 80 * labels[:, None, None, None])
    >>> encode = lambda params, x: {"pooled": x.reshape(len(x), -1)}  # Pixels.
    >>> features = encode(None, images / np.float32(255))
    >>> flip = lambda key, x, *, extent=None: augment.random_flip(key, x)
    >>> probes = evals.augmented_linear_probe(
    ...     jax.random.key(0),
    ...     encode,
    ...     None,
    ...     {"image": images[20:], "label": labels[20:]},
    ...     jax.tree.map(lambda x: x[20:], features),
    ...     jax.tree.map(lambda x: x[:20], features),
    ...     num_classes=3,
    ...     augment=flip,
    ...     epochs=10,
    ...     batch_size=16,
    ... )
    >>> float((probes["pooled"].predicted == labels[:20]).mean())
    1.0
  """
  checks.check_labels(images["label"], num_classes)
  split_key, order_key, view_key = jax.random.split(key, 3)
  valid, rest = linear.hold_out(
      split_key, len(images["label"]), validation_fraction
  )
  batch_size = min(batch_size, len(rest))
  rates, decays = linear.make_grid(learning_rates, weight_decays)
  rates = jnp.asarray(rates) * batch_size / 256
  total = epochs * (len(rest) // batch_size)
  schedule = optax.cosine_decay_schedule(1.0, total)
  norms = jax.tree.map(linear.mean_and_scale, features)
  step = _make_step(
      view_key, encode, augment, lambda i: rates * schedule(i), decays
  )
  states = {
      stage: linear.begin(len(rates), x.shape[1], num_classes)
      for stage, x in features.items()
  }
  batches = minibatches.shuffled(
      order_key,
      jax.tree.map(lambda x: x[rest], images),
      epochs=epochs,
      batch_size=batch_size,
  )
  for i, batch in enumerate(batches):
    states = step(states, params, norms, i, batch)
  found = {}
  for stage, (probes, _) in states.items():
    seen = linear.normalize(features[stage][valid], norms[stage])
    best, accuracy = linear.choose(probes, seen, images["label"][valid])
    tested = linear.normalize(test_features[stage], norms[stage])
    predicted = linear.predict(probes, tested)[best]
    found[stage] = linear.make_probe(
        predicted, best, accuracy, learning_rates, weight_decays
    )
  return found


def _make_step(key, encode, augment, rates_at, decays):
  """Makes the jitted step of the regressions of every stage."""

  # The norms are an argument, so that one program serves all encoders.
  @functools.partial(jax.jit, donate_argnums=0)
  def step(states, params, norms, i, batch):
    (views,) = make_views(jax.random.fold_in(key, i), batch, (augment,))
    features = jax.lax.stop_gradient(encode(params, views))
    return {
        stage: linear.descend(
            state,
            linear.normalize(features[stage], norms[stage]),
            batch["label"],
            rates_at(i),
            decays,
        )
        for stage, state in states.items()
    }

  return step
