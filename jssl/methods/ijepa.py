r"""I-JEPA: predict the features of blocks of patches from other patches.

```mermaid
flowchart LR
  image -->|"context patches"| f["context encoder"] --> p["predictor"]
  p -->|"block"| loss["smooth L1"]
  image -->|"all patches"| g["target encoder"] -.-> n["standardise"]
  n -.->|"block, stop-gradient"| loss
  f -.->|"EMA"| g
```

$$
\mathcal{L} = \frac{1}{M} \sum_{i=1}^{M} \frac{1}{|B_i| D} \sum_{j \in B_i}
\sum_{d=1}^{D} h(\hat{s}_{j,d} - s_{j,d})
\qquad
h(e) = \begin{cases}
\frac{1}{2} e^2 & \text{if } |e| \le 1 \cr |e| - \frac{1}{2} & \text{else}
\end{cases}
$$

$B_i$ are the patches of target block $i$ of $M$. $\hat{s}_j$ are the predicted
features of patch $j$, from the context and the positions in the block. $s_j$
are those of the target encoder, which sees all patches, standardised over the
$D$ features. $h$ is the smooth absolute error of the
authors' code; the paper has the squared distance. The loss is the mean over
images. All blocks of a step have one shape, drawn anew at each step; the number
of context patches differs from image to image.

Reference:
  Assran et al., Self-Supervised Learning from Images with a Joint-Embedding
  Predictive Architecture, 2023.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jssl import ema, embeddings, masking
from jssl.augment import image_keys
from jssl.method import Aux, Method
from jssl.methods import _branch, _target, _transformers, _views
from jssl.nets import TransformerDecoder
from jssl.nets.patches import grid_of, patchify, unpatchify


class Views(NamedTuple):
  """The views of a batch.

  Attributes:
    images: `[B, H, W, C]` in [0, 1].
    context: Patches that the context encoder sees, `[B, N]`.
    targets: Blocks whose features are predicted, `[B, K, M]`.
  """

  images: jax.Array
  context: masking.Patches
  targets: masking.Patches


class ContextPredictor(nn.Module):
  """An encoder of the context, and a predictor of each target block.

  Attributes:
    net: A vision transformer.
    predictor: A `TransformerDecoder`.
  """

  net: Any
  predictor: nn.Module

  def __call__(self, views: Views, *, train: bool = False) -> jax.Array:
    """Predicts features of the targets, float32 `[B, K, M, D]`."""
    images, context, targets = views
    encoded, grid = _transformers.encode_some(
        self.net, images, context.indices, valid=context.valid, train=train
    )
    # Blocks do not see each other: each is in a sequence of its own.
    shape = targets.indices.shape
    repeat = lambda x: jnp.repeat(x, shape[1], axis=0)
    hidden = jax.tree.map(lambda x: x.reshape(-1, shape[2]), targets)
    context = jax.tree.map(repeat, context)
    prediction = self.predictor(
        repeat(encoded),
        context.indices,
        hidden.indices,
        grid,
        valid=jnp.concatenate([context.valid, hidden.valid], axis=1),
        train=train,
    )
    return prediction.reshape(*shape, self.net.width)


def ijepa(
    net: nn.Module,
    *,
    augment: _views.Recipe = _views.CROP_AND_FLIP,
    targets: int = 4,
    target_scale: tuple[float, float] = (0.15, 0.2),
    target_aspect: tuple[float, float] = (0.75, 1.5),
    context_scale: tuple[float, float] = (0.85, 1.0),
    context_limit: float = 0.26,
    min_keep: int = 10,
    to_edges: bool = True,
    predictor_width: int = 384,
    predictor_depth: int = 6,
    predictor_heads: int = 12,
    momentum: float | Callable = 0.996,
    axis_name: str | None = None,
) -> Method:
  """Makes I-JEPA over a vision transformer.

  Args:
    net: A `ViT` of `jssl.nets`.
    augment: The recipe; by default a crop and a flip. The paper only crops.
    targets: Number of target blocks.
    target_scale, target_aspect, context_scale, context_limit, min_keep: See
      `jssl.masking.context_and_targets`.
    to_edges: See `jssl.masking.random_block`.
    predictor_width: Width of the predictor's tokens.
    predictor_depth: Number of its blocks.
    predictor_heads: Number of its attention heads.
    momentum: EMA decay of the target encoder, in [0, 1]: a constant, or a
      function of the step. The paper raises it from 0.996 to 1 linearly.
    axis_name: Axis that the batch is split over, or None.

  Returns:
    The method; it encodes by its target encoder. Its loss is the smooth
    absolute error of standardised features; metrics are "chance_loss", the loss
    of predicting 0, and "feature_std" of the targets' means (see
    `embeddings.feature_std`).

  Raises:
    ValueError: If the net is not a transformer, or the momentum out of range.
  """
  _transformers.check(net, "ijepa", partial=True)
  momentum = ema.as_schedule(momentum)
  predictor = TransformerDecoder(
      net.width,
      width=predictor_width,
      depth=predictor_depth,
      heads=predictor_heads,
      weight_init=net.weight_init,
      attention=net.attention,
      dtype=net.dtype,
  )
  module = ContextPredictor(net, predictor)

  def views(key, batch):
    image_key, mask_key, shape_key = jax.random.split(key, 3)
    images = _views.one(image_key, batch, augment)
    grid = grid_of(*images.shape[1:3], net.patch_size)
    draw = lambda key: masking.context_and_targets(
        key,
        grid,
        shape_key=shape_key,  # As in the authors' code: one shape per step.
        targets=targets,
        target_scale=target_scale,
        target_aspect=target_aspect,
        context_scale=context_scale,
        context_limit=context_limit,
        min_keep=min_keep,
        to_edges=to_edges,
    )
    keys = image_keys(mask_key, batch)
    return Views(images, *jax.vmap(draw)(keys))

  def init(key, views):
    return _target.init(*_branch.init(key, module, views))

  def loss(params, carried, views, keys, step):
    del step
    carried = jax.lax.stop_gradient(carried)
    prediction, _ = _branch.forward(module, params, {}, views, keys.local)
    features = _features(net, carried.target_params["net"], views.images)
    index, valid = views.targets
    wanted = jnp.take_along_axis(features[:, None], index[..., None], axis=2)

    def error(x):
      # Every device has the same number, since all blocks have one shape.
      return jnp.mean(optax.huber_loss(x, wanted), where=valid[..., None])

    metrics = {
        "chance_loss": error(jnp.zeros_like(wanted)),
        "feature_std": embeddings.feature_std(
            jnp.mean(features, axis=1), axis_name=axis_name
        ),
    }
    return error(prediction), Aux({}, metrics)

  def update(params, carried, fresh, step):
    del fresh
    batch_stats = (carried.batch_stats, carried.target_batch_stats)
    return params, _target.update(carried, params, batch_stats, momentum(step))

  def draw(views):
    show = lambda patches: _hide_others(
        views.images, patches, size=net.patch_size
    )
    targets = jax.tree.map(lambda x: x[0], views.targets)
    return {"context": show(views.context), "targets": show(targets)}

  return Method(
      views,
      init,
      loss,
      update,
      _target.encoder(net),
      needs=frozenset({"patches"}),
      draw=draw,
  )


def _hide_others(image, patches, *, size):
  """Hides all but some patches of an image `[1, H, W, C]` behind gray.

  Args:
    image: The image.
    patches: Which patches each drawing shows, `[K, N]`.
    size: Side of a patch in pixels.

  Returns:
    `[K, H, W, C]`.
  """
  pixels = patchify(image, size)  # [1, T, P * P * C]
  shown = jax.vmap(lambda i, valid: jnp.zeros(pixels.shape[1]).at[i].max(valid))
  pixels = jnp.where(shown(*patches)[..., None] > 0, pixels, 0.5)  # [K, T, ...]
  return jnp.clip(unpatchify(pixels, image.shape[1:]), 0.0, 1.0)


def _features(net, params, images):
  """Standardised features of every patch, float32 `[B, T, D]`."""

  def last(net, images):
    patches = net.embed(images)
    tokens = patches.reshape(len(images), -1, patches.shape[-1])
    tokens = net.blocks(tokens, grid=patches.shape[1:3], train=False)[-1]
    return tokens[:, net.first_patch :]

  x = net.apply({"params": params}, images, method=last).astype(jnp.float32)
  return embeddings.standardize(x)
