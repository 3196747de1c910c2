r"""DINO: a student matches a teacher that is an average of itself.

```mermaid
flowchart LR
  image --> v1["global view x"] --> t["teacher"]
  image --> v2["other view x'"] --> s["student"]
  s -.->|"EMA"| t
  s --> loss["cross-entropy"]
  t -.->|"stop-gradient"| c["centre, sharpen"] -.-> loss
```

$$
\mathcal{L} = \frac{1}{2 (|V| - 1)}
\sum_{x \in \lbrace x_1^g, x_2^g \rbrace} \sum_{x' \in V, x' \neq x}
-P_t(x)^\top \log P_s(x')
$$

$$
P_s(x) = \mathrm{softmax}(g_s(x) / \tau_s)
\qquad
P_t(x) = \mathrm{softmax}((g_t(x) - c) / \tau_t)
$$

$V$ are the views, of which $x_1^g$ and $x_2^g$ are global. $g_s$ and $g_t$ are
the scores of student and teacher: encoder, projector, cosine similarities to
prototypes. $\tau_s$ and $\tau_t$ are their temperatures. $c$ is a running mean
of $g_t$, updated after the loss. The loss is the mean over images.

Reference:
  Caron et al., Emerging Properties in Self-Supervised Vision Transformers,
  2021.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jssl import ema, embeddings, losses, parallel
from jssl.embeddings import l2_normalize
from jssl.losses import checks
from jssl.method import Aux, Method
from jssl.methods import _branch, _target, _views
from jssl.nets import BatchNorm, MLP

_INIT = nn.initializers.normal(0.02)
# PyTorch's default of a linear layer, uniform in +-1 / sqrt(fan in), that the
# authors' weight-normalised layer starts from; one row per prototype.
_PROTOTYPE_INIT = nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=1, out_axis=0
)


class Carried(NamedTuple):
  """The state that DINO carries from step to step.

  Attributes:
    batch_stats: Running statistics of the student.
    target_params: Parameters of the teacher: an EMA of `params`, in buffers of
      its own.
    target_batch_stats: Running statistics of the teacher.
    center: Running mean of the teacher's scores, `[P]`.
  """

  batch_stats: Any
  target_params: Any
  target_batch_stats: Any
  center: jax.Array


def dino(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.FIRST_VIEW,
    second_augment: _views.Recipe | None = _views.SECOND_VIEW,
    local_augment: _views.Recipe | None = None,
    local_views: int = 0,
    dim: int = 256,
    hidden_dim: int = 2048,
    projector_layers: int = 3,
    projector_norm: bool = False,
    prototypes: int = 65536,
    norm_last_layer: bool = True,
    student_temperature: float = 0.1,
    teacher_temperature: float | Callable = 0.04,
    momentum: float | Callable = 0.996,
    center_momentum: float = 0.9,
    frozen_steps: int = 0,
    joint_statistics: bool = True,
    axis_name: str | None = None,
) -> Method:
  """Makes DINO, by default without local views.

  Args:
    augment: The recipe of the first global view; by default the paper's colors.
    second_augment: The recipe of the second global view, None for the same.
    local_augment: The recipe of the local views, which only the student sees.
    local_views: Number of local views: 8 in the paper.
    dim: Length of the embeddings that the prototypes are compared with.
    hidden_dim: Width of the projector's hidden layers.
    projector_layers: Number of layers of the projector.
    projector_norm: Whether it has BatchNorm; not in the paper, but usual for
      small ResNets.
    prototypes: Number of scores, K.
    norm_last_layer: Whether prototypes keep length 1. If not, a score is the
      cosine similarity times a learned length, initially 1; the paper does so
      for small transformers with long training.
    student_temperature: Divisor of the student's scores, above 0.
    teacher_temperature: Divisor of the teacher's scores, above 0 and below the
      student's: a constant, or a function of the step. The paper warms up to
      0.07.
    momentum: EMA decay of the teacher, in [0, 1]: a constant, or a function of
      the step. The paper raises it from 0.996 to 1 along a cosine.
    center_momentum: EMA decay of the centre, in [0, 1].
    frozen_steps: For how many steps the prototypes (and their lengths) are
      frozen: an epoch in the paper.
    net, joint_statistics, axis_name: See `jssl.methods`.

  Returns:
    The method; it encodes by its teacher. Its views are the two global ones and
    the local ones (or None); its metrics "chance_loss" (log K) and
    "feature_std" (see `embeddings.feature_std`).

  Raises:
    ValueError: If a temperature, a momentum or a count is out of range.
  """
  checks.check_temperature(student_temperature, name="student_temperature")
  divisor = teacher_temperature
  if not callable(divisor):
    divisor = optax.constant_schedule(teacher_temperature)
  checks.check_temperature(float(divisor(0)), name="teacher_temperature")
  momentum = ema.as_schedule(momentum)
  ema.as_schedule(center_momentum)
  views = _views.multi_crop(augment, second_augment, local_augment, local_views)
  projector = MLP(
      (hidden_dim,) * (projector_layers - 1) + (dim,),
      norm=functools.partial(BatchNorm, axis_name=axis_name)
      if projector_norm
      else None,
      activation=functools.partial(nn.gelu, approximate=False),
      kernel_init=_INIT,
      dtype=_branch.dtype_of(net),
  )
  branch = _branch.Branch(net, projector, joint=joint_statistics)

  def init(key, views):
    branch_key, prototype_key = jax.random.split(key)
    params, batch_stats = _branch.init(branch_key, branch, views.global_crops)
    drawn = _PROTOTYPE_INIT(prototype_key, (prototypes, dim))
    params = {**params, "prototypes": drawn}
    if not norm_last_layer:
      params["prototype_lengths"] = jnp.ones((prototypes, 1))
    copy = _branch.copy((params, batch_stats))
    return params, Carried(batch_stats, *copy, jnp.zeros(prototypes))

  def loss(params, carried, views, keys, step):
    carried = jax.lax.stop_gradient(carried)
    embedding, batch_stats = _branch.forward(
        branch, params, carried.batch_stats, views.by_size(), keys.local
    )
    targets, target_batch_stats = _target.embed(
        branch, carried, views.global_crops
    )
    student = _scores(embedding.projection, params)
    teacher = _scores(targets, carried.target_params)
    value = losses.dino(
        student,
        teacher,
        carried.center,
        student_temperature=student_temperature,
        teacher_temperature=divisor(step),
    )
    metrics = {
        "chance_loss": jnp.log(student.shape[-1]),
        "feature_std": embeddings.feature_std(
            embedding.projection[0], axis_name=axis_name
        ),
    }
    center = losses.update_center(
        carried.center, teacher, momentum=center_momentum, axis_name=axis_name
    )
    stats = parallel.pmean((batch_stats, target_batch_stats), axis_name)
    return value, Aux((*stats, center), metrics)

  def update(params, carried, fresh, step):
    batch_stats, target_batch_stats, center = fresh
    teacher = ema.update(carried.target_params, params, momentum(step))
    return params, Carried(batch_stats, teacher, target_batch_stats, center)

  return Method(
      views,
      init,
      loss,
      update,
      _target.encoder(net),
      frozen_steps=_branch.freeze(
          ("prototypes", "prototype_lengths"), frozen_steps
      ),
  )


def _scores(projections, params):
  """Cosine similarities to the prototypes times their lengths, `[V, B, K]`.

  It is the authors' weight-normalised layer.
  """
  rows = l2_normalize(params["prototypes"])
  if "prototype_lengths" in params:
    rows = rows * params["prototype_lengths"]
  return jnp.matmul(l2_normalize(projections), rows.T)
