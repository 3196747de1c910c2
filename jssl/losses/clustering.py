"""Losses whose targets are soft assignments to prototypes: SwAV and DINO."""

import jax
import jax.numpy as jnp

from jssl import parallel
from jssl.losses.checks import check_global_batch, check_temperature


def sinkhorn(
    scores: jax.Array,
    *,
    epsilon: float | jax.Array,
    iterations: int,
    axis_name: str | None = None,
) -> jax.Array:
  """Assigns a batch to prototypes in equal parts, by Sinkhorn's algorithm.

  Args:
    scores: Similarities to the prototypes, `[B, P]`.
    epsilon: Smoothness of the assignment, above 0: 0.05 in the paper.
    iterations: Number of normalisations over prototypes, then over images; 3 in
      the paper.
    axis_name: Axis that the batch is split over, or None. The partition is that
      of the global batch.

  Returns:
    This device's assignments, float32 `[B, P]`, without gradient. Rows sum to
    1; over the global batch columns sum to about N / P.

  Raises:
    ValueError: If scores are not a matrix, epsilon or iterations is not
      positive or the global batch has fewer than 2 rows: a single row would
      get equal assignments, whatever its scores.

  Reference:
    Caron et al., Unsupervised Learning of Visual Features by Contrasting
    Cluster Assignments, 2020, equations 3 to 5; Cuturi, Sinkhorn Distances,
    2013.

  Example:
    >>> import jax
    >>> from jssl import losses
    >>> scores = jax.random.uniform(jax.random.key(0), (6, 3))
    >>> codes = losses.sinkhorn(scores, epsilon=0.5, iterations=50)
    >>> print(codes.sum(axis=1).round(3))  # Each image has a distribution,
    [1. 1. 1. 1. 1. 1.]
    >>> print(codes.sum(axis=0).round(3))  # each prototype an equal share.
    [2. 2. 2.]
  """
  if scores.ndim != 2:
    raise ValueError(f"scores are {scores.shape}; expected [B, P].")
  check_temperature(epsilon, name="epsilon")
  if iterations < 1:
    raise ValueError(f"iterations is {iterations}; expected 1 or more.")
  check_global_batch(
      len(scores), axis_name, name="sinkhorn", purpose="an equal partition"
  )
  scores = jax.lax.stop_gradient(scores).astype(jnp.float32)
  log_q = scores / epsilon
  # In logarithms, as one distant image or prototype would underflow to 0 / 0.
  for _ in range(iterations):
    log_q -= _log_sum_over_batch(log_q, axis_name)
    log_q -= jax.nn.logsumexp(log_q, axis=1, keepdims=True)
  return jnp.exp(log_q)


def swav(
    high: jax.Array,
    low: jax.Array,
    *,
    temperature: float | jax.Array,
    epsilon: float | jax.Array,
    iterations: int,
    axis_name: str | None = None,
) -> jax.Array:
  """SwAV's loss: predict the assignment of a view from every other view.

  Args:
    high: Cosine similarities of global views to the prototypes, `[H, B, P]`.
    low: Similarities of local views, `[L, B, P]`, which predict but are not
      predicted; L may be 0.
    temperature: Divisor of the similarities that predict, above 0: 0.1 in the
      paper.
    epsilon: Smoothness of the assignments, see `sinkhorn`.
    iterations: Number of Sinkhorn iterations, see `sinkhorn`.
    axis_name: Axis that the batch is split over, or None. The assignments are
      made over the global batch.

  Returns:
    The mean over this device's images and all pairs of views, a float32 scalar;
    log(P) is chance. No gradient flows through the assignments.

  Raises:
    ValueError: If shapes do not fit, a setting is not positive or the global
      batch has fewer than 2 images.

  Reference:
    Caron et al., Unsupervised Learning of Visual Features by Contrasting
    Cluster Assignments, 2020, equations 2 and 6.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jssl import losses
    >>> view = jax.nn.one_hot(jnp.arange(8) % 4, 4)  # [B, P]: four clusters.
    >>> high, low = jnp.stack([view] * 2), jnp.stack([view] * 6)  # [V, B, P]
    >>> settings = dict(temperature=0.1, epsilon=0.05, iterations=3)
    >>> round(float(losses.swav(high, low, **settings)), 3)  # All agree.
    0.0
    >>> round(float(losses.swav(0 * high, 0 * low, **settings)), 3)  # log 4
    1.386
  """
  _check_views(high=high, low=low)
  codes = jax.vmap(
      lambda scores: sinkhorn(
          scores, epsilon=epsilon, iterations=iterations, axis_name=axis_name
      )
  )(high)
  return swapped_prediction(codes, high, low, temperature=temperature)


def swapped_prediction(
    codes: jax.Array,
    high: jax.Array,
    low: jax.Array,
    *,
    temperature: float | jax.Array,
) -> jax.Array:
  """Cross-entropy of each global view's assignment given every other view.

  It is `swav` for given assignments, for example with a queue. A batch split
  over devices needs no axis here.

  Args:
    codes: Assignments of global views, `[H, B, P]`; rows sum to 1. No
      gradient flows to them.
    high: Cosine similarities of global views to the prototypes, `[H, B, P]`.
    low: Similarities of local views, `[L, B, P]`; L may be 0.
    temperature: Divisor of the similarities, above 0.

  Returns:
    The mean over the batch and all pairs of views, a float32 scalar; log(P) is
    chance.

  Raises:
    ValueError: If shapes do not fit or the temperature is not positive.

  Reference:
    Caron et al., Unsupervised Learning of Visual Features by Contrasting
    Cluster Assignments, 2020, equations 2 and 6.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import losses
    >>> codes = jnp.stack([jnp.eye(3)] * 2)  # [2, B, P]
    >>> low = jnp.zeros((0, 3, 3))
    >>> loss = losses.swapped_prediction(codes, 9 * codes, low, temperature=1.0)
    >>> bool(loss < 0.01)
    True
  """
  _check_views(high=high, low=low)
  if codes.shape != high.shape:
    raise ValueError(
        f"codes {codes.shape} and high {high.shape} do not fit; expected"
        " [H, B, P] for both."
    )
  check_temperature(temperature)
  # Not joined before the cast: the views may differ in type.
  scores = jnp.concatenate([x.astype(jnp.float32) for x in (high, low)])
  return _predict_from_other_views(codes, scores / temperature)


def dino(
    student: jax.Array,
    teacher: jax.Array,
    center: jax.Array,
    *,
    student_temperature: float | jax.Array,
    teacher_temperature: float | jax.Array,
) -> jax.Array:
  """DINO's loss: the student's view predicts the teacher's other view.

  A batch split over devices needs no axis here, `update_center` does.

  Args:
    student: Scores of all views, `[V, B, P]`; the first are the teacher's.
    teacher: Scores of the global views, `[2, B, P]`. No gradient flows to them.
    center: Running mean of the teacher's scores, `[P]`, **without** this batch.
      No gradient flows to it.
    student_temperature: Divisor of the student's scores, above 0: 0.1 in the
      paper.
    teacher_temperature: Divisor of the teacher's scores, above 0 and below the
      student's.

  Returns:
    The mean over the batch and all pairs of different views, a float32 scalar;
    log(P) is chance.

  Raises:
    ValueError: If shapes do not fit or a temperature is not positive.

  Reference:
    Caron et al., Emerging Properties in Self-Supervised Vision Transformers,
    2021, equation 3 and algorithm 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import losses
    >>> teacher = jnp.zeros((2, 8, 4))  # [V, B, P]: every prototype alike.
    >>> student = jnp.zeros((6, 8, 4))
    >>> loss = losses.dino(
    ...     student,
    ...     teacher,
    ...     jnp.zeros(4),
    ...     student_temperature=0.1,
    ...     teacher_temperature=0.04,
    ... )
    >>> round(float(loss), 4)  # log 4
    1.3863
  """
  _check_views(teacher=teacher, student=student)
  if len(student) < len(teacher):
    raise ValueError(
        f"student {student.shape} has fewer views than teacher"
        f" {teacher.shape}; its first views must be the teacher's."
    )
  _check_center(center, teacher)
  check_temperature(student_temperature, name="student_temperature")
  check_temperature(teacher_temperature, name="teacher_temperature")
  centered = teacher.astype(jnp.float32) - center
  targets = jax.nn.softmax(centered / teacher_temperature, axis=-1)
  scores = student.astype(jnp.float32) / student_temperature
  return _predict_from_other_views(targets, scores)


def update_center(
    center: jax.Array,
    teacher: jax.Array,
    *,
    momentum: float | jax.Array,
    axis_name: str | None = None,
) -> jax.Array:
  """Moves DINO's centre towards the mean of the teacher's scores.

  Args:
    center: The centre, `[P]`, equal on every device, initially zero.
    teacher: Scores of the global views, `[2, B, P]`.
    momentum: EMA decay of the centre, in [0, 1]: 0.9 in the paper.
    axis_name: Axis that the batch is split over, or None. The mean is that of
      the global batch.

  Returns:
    The new centre, `[P]`, without gradient, equal on every device.

  Raises:
    ValueError: If shapes do not fit or the momentum is out of range.

  Reference:
    Caron et al., Emerging Properties in Self-Supervised Vision Transformers,
    2021, equation 4.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import losses
    >>> center, teacher = jnp.zeros(4), jnp.ones((2, 8, 4))  # [P], [V, B, P]
    >>> center = losses.update_center(center, teacher, momentum=0.75)
    >>> center.tolist()
    [0.25, 0.25, 0.25, 0.25]
  """
  if teacher.ndim != 3:
    raise ValueError(f"teacher is {teacher.shape}; expected [2, B, P].")
  _check_center(center, teacher)
  if not isinstance(momentum, jax.core.Tracer) and not 0 <= momentum <= 1:
    raise ValueError(
        f"momentum is {momentum}; expected a value in [0, 1], for example 0.9."
    )
  center, teacher = jax.lax.stop_gradient((center, teacher))
  mean = jnp.mean(teacher.astype(jnp.float32), axis=(0, 1))
  mean = parallel.pmean(mean, axis_name)
  return (momentum * center + (1.0 - momentum) * mean).astype(center.dtype)


def _predict_from_other_views(targets, logits):
  """Mean cross-entropy of targets `[T, B, P]` given logits of other views.

  The first T of the logits `[V, B, P]` belong to the targets' views.
  """
  count, views, size = len(targets), len(logits), logits.shape[1]
  if views < 2:
    raise ValueError(
        f"There are {views} view(s); a view is predicted from another one, so"
        " at least 2 are needed."
    )
  cost = -jnp.einsum(
      "tbp,vbp->tv",
      jax.lax.stop_gradient(targets),
      jax.nn.log_softmax(logits, axis=-1),
      precision=jax.lax.Precision.HIGHEST,
  )
  other = ~jnp.eye(count, views, dtype=bool)
  return jnp.sum(cost, where=other) / (count * (views - 1) * size)


def _log_sum_over_batch(x, axis_name):
  """Log-sum-exp of `[B, P]` over the global batch, `[1, P]`."""
  maximum = jnp.max(x, axis=0, keepdims=True)
  if axis_name is not None:
    maximum = jax.lax.pmax(maximum, axis_name)
  total = jnp.sum(jnp.exp(x - maximum), axis=0, keepdims=True)
  if axis_name is not None:
    total = jax.lax.psum(total, axis_name)
  return maximum + jnp.log(total)


def _check_views(**views):
  """Raises ValueError unless two named arrays are views of one batch."""
  (first, x), (second, y) = views.items()
  if x.ndim != 3 or x.shape[1:] != y.shape[1:] or len(x) < 1:
    raise ValueError(
        f"{first} {x.shape} and {second} {y.shape} do not fit; expected"
        " [V, B, P], of any V, for both."
    )


def _check_center(center, teacher):
  if center.shape != teacher.shape[-1:]:
    raise ValueError(
        f"center {center.shape} and teacher {teacher.shape} do not fit;"
        " expected [P] and [2, B, P]."
    )
