"""Quality of features without labels."""

import jax
import jax.numpy as jnp


def rankme(features: jax.Array, *, epsilon: float = 1e-7) -> jax.Array:
  """Effective rank of features: how many dimensions they really use.

  Args:
    features: `[N, D]`, not normalised, N at least D for a meaningful value.
    epsilon: Added to the normalised singular values.

  Returns:
    exp(entropy) of the normalised singular values, a float32 scalar between 1
    (one direction) and min(N, D).

  Raises:
    ValueError: If the features are not a matrix.

  Reference:
    Garrido et al., RankMe: Assessing the Downstream Performance of Pretrained
    Self-Supervised Representations by Their Rank, 2023, equation 1.
  """
  if features.ndim != 2:
    raise ValueError(
        f"features have shape {features.shape}; expected [N, D]. Pool feature"
        " maps first."
    )
  singular = jnp.linalg.svd(features.astype(jnp.float32), compute_uv=False)
  p = singular / jnp.maximum(jnp.sum(singular), epsilon) + epsilon
  return jnp.exp(-jnp.sum(p * jnp.log(p)))


def collapse_warning(signs: dict[str, float]) -> str | None:
  """Tells in a sentence if features show collapse.

  Args:
    signs: Any of "feature_std" (of the embeddings in the loss), "encoder_std"
      (of the pooled features) and "rank" (their effective rank).

  Returns:
    A warning with the value and the remedy, or None.
  """
  floors = {"feature_std": 0.02, "encoder_std": 0.02, "rank": 1.2}
  for name, floor in floors.items():
    if name in signs and signs[name] < floor:
      return (
          f"{name} is {signs[name]:.3g}, below {floor}: all images get nearly"
          " the same features (collapse). Lower the learning rate, raise the"
          " temperature, or check that the augmentations leave something to"
          " recognise."
      )
  return None
