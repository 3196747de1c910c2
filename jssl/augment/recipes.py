"""The augmentations of the papers, each one function of a key and an image.

What the recipes have in common:

- `key`: A PRNG key.
- `image`: float [H, W, C] in [0, 1]; C = 1 or 3 where colors change.
- `size`: Static side of the view.
- `extent`: The true (height, width) of a picture on a canvas, [2], or None.
- `scale`: Range of the crop's area, relative to the picture's.
- `method`: How crops are resized: "bilinear", or "bicubic", whose result is
  clipped to [0, 1] as that of 8-bit pictures is.
- `operations`: Which image library to follow. "torchvision" is that of the
  methods written in PyTorch: crops with antialiasing, torchvision's color
  operations, a blur that repeats the edge (Pillow's). "simclr" and "byol" are
  those of the official code of SimCLR and BYOL: crops without antialiasing
  (TensorFlow's), their color operations (see `random_color_jitter`), a blur
  that sees black outside the view.

They return the view, float32 [size, size, C] in [0, 1], and raise ValueError if
the image is not [H, W, C] or a setting is out of range. Fix the size with
`functools.partial(moco_v2, size=224)` to pass a recipe to `make_views`.

Blurs draw sigma from 0.1 to 2 and never truncate the Gaussian: the kernel has a
tenth of the view's side, as in SimCLR and BYOL (23 taps at 224 pixels), but at
least 13 taps.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp

from jssl.augment import checks, random_ops, resampling
from jssl.augment.random_crop import random_pad_and_crop, random_resized_crop


def moco_v1(
    key: jax.Array,
    image: jax.Array,
    size: int,
    *,
    extent: jax.Array | None = None,
    scale: tuple[float, float] = (0.2, 1.0),
    method: str = "bilinear",
) -> jax.Array:
  """The augmentation of MoCo v1 (He et al., 2020).

  See https://arxiv.org/abs/1911.05722, section 3.3; the order is that of the
  official code: crop, grayscale, jitter, flip.

  Args:
    key, image, size, extent, scale, method: See `jssl.augment.recipes`.

  Returns:
    The view.

  Example:
    >>> import functools
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> recipe = functools.partial(augment.moco_v1, size=24)
    >>> jax.jit(recipe)(jax.random.key(1), image).shape
    (24, 24, 3)
  """
  crop_key, gray_key, jitter_key, flip_key = jax.random.split(key, 4)
  image = _crop(crop_key, image, size, scale, extent, method)
  image = random_ops.random_grayscale(gray_key, image, probability=0.2)
  image = random_ops.random_color_jitter(
      jitter_key, image, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4
  )
  return random_ops.random_flip(flip_key, image)


def moco_v2(
    key: jax.Array,
    image: jax.Array,
    size: int,
    *,
    extent: jax.Array | None = None,
    scale: tuple[float, float] = (0.2, 1.0),
    blur_probability: float = 0.5,
    method: str = "bilinear",
) -> jax.Array:
  """The augmentation of MoCo v2 (Chen et al., 2020).

  See https://arxiv.org/abs/2003.04297 and its official code: SimCLR's, with a
  smaller change of hue.

  Args:
    scale: See `jssl.augment.recipes`; (0.08, 1.0) is usual for CIFAR.
    blur_probability: How often to blur; 0 is usual for CIFAR.
    key, image, size, extent, method: See `jssl.augment.recipes`.

  Returns:
    The view.

  Example:
    >>> import functools
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> recipe = functools.partial(augment.moco_v2, size=24)
    >>> jax.jit(recipe)(jax.random.key(1), image).shape
    (24, 24, 3)
  """
  crop_key, *keys = _keys(key)
  image = _crop(crop_key, image, size, scale, extent, method)
  jitter = (0.4, 0.4, 0.4, 0.1)
  return _distort(keys, image, size, jitter, blur_probability)


def simclr(
    key: jax.Array,
    image: jax.Array,
    size: int,
    *,
    extent: jax.Array | None = None,
    scale: tuple[float, float] = (0.08, 1.0),
    strength: float = 1.0,
    blur_probability: float = 0.5,
    method: str = "bilinear",
    operations: str = "torchvision",
) -> jax.Array:
  """The augmentation of SimCLR (Chen et al., 2020).

  See https://arxiv.org/abs/2002.05709, appendix A, and its official code, whose
  crops are bicubic.

  Args:
    strength: Strength of the color jitter; in the paper 1 for ImageNet and 0.5
      for CIFAR.
    blur_probability: How often to blur; in the paper 0 for CIFAR.
    operations: See `jssl.augment.recipes`. The paper's own are "simclr"; its
      first version adds brightness as "byol" does. SwAV and others use
      "torchvision".
    key, image, size, extent, scale, method: See `jssl.augment.recipes`.

  Returns:
    The view.

  Example:
    >>> import functools
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> recipe = functools.partial(augment.simclr, size=24, strength=0.5)
    >>> jax.jit(recipe)(jax.random.key(1), image).shape
    (24, 24, 3)
  """
  crop_key, *keys = _keys(key)
  image = _crop(crop_key, image, size, scale, extent, method, operations)
  jitter = tuple(strength * x for x in (0.8, 0.8, 0.8, 0.2))
  return _distort(
      keys, image, size, jitter, blur_probability, operations=operations
  )


def byol(
    key: jax.Array,
    image: jax.Array,
    size: int,
    *,
    extent: jax.Array | None = None,
    scale: tuple[float, float] = (0.08, 1.0),
    blur_probability: float = 1.0,
    solarize_probability: float = 0.0,
    method: str = "bilinear",
    operations: str = "torchvision",
) -> jax.Array:
  """The augmentation of BYOL (Grill et al., 2020), for one of its two views.

  See https://arxiv.org/abs/2006.07733, appendix B. The defaults are those of
  the first view; the second blurs with 0.1 and solarizes with 0.2. Barlow
  Twins, VICReg, MoCo v3 and DINO use the same two with torchvision's
  operations; crops are bicubic in all of them except MoCo v3.

  Args:
    blur_probability: How often to blur.
    solarize_probability: How often to invert the values above 0.5.
    operations: See `jssl.augment.recipes`. The paper's own are "byol".
    key, image, size, extent, scale, method: See `jssl.augment.recipes`.

  Returns:
    The view.

  Example:
    >>> import functools
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> recipe = functools.partial(
    ...     augment.byol, size=24, solarize_probability=0.2
    ... )
    >>> jax.jit(recipe)(jax.random.key(1), image).shape
    (24, 24, 3)
  """
  crop_key, *keys = _keys(key)
  image = _crop(crop_key, image, size, scale, extent, method, operations)
  jitter = (0.4, 0.4, 0.2, 0.1)
  return _distort(
      keys,
      image,
      size,
      jitter,
      blur_probability,
      solarize_probability,
      operations=operations,
  )


def crop_and_flip(
    key: jax.Array,
    image: jax.Array,
    size: int,
    *,
    extent: jax.Array | None = None,
    scale: tuple[float, float] = (0.2, 1.0),
    method: str = "bilinear",
    flip_probability: float = 0.5,
) -> jax.Array:
  """The augmentation of MAE (He et al., 2022), and of pretext tasks.

  Args:
    scale: See `jssl.augment.recipes`; SimMIM takes
      (0.67, 1.0) and I-JEPA (0.3, 1.0).
    method: See `jssl.augment.recipes`; MAE takes "bicubic".
    flip_probability: How often to flip; I-JEPA takes 0.
    key, image, size, extent: See `jssl.augment.recipes`.

  Returns:
    The view.

  Example:
    >>> import functools
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> recipe = functools.partial(augment.crop_and_flip, size=24)
    >>> jax.jit(recipe)(jax.random.key(1), image).shape
    (24, 24, 3)
  """
  crop_key, flip_key = jax.random.split(key)
  image = _crop(crop_key, image, size, scale, extent, method)
  return random_ops.random_flip(flip_key, image, probability=flip_probability)


def pad_crop_and_flip(
    key: jax.Array,
    image: jax.Array,
    size: int,
    *,
    extent: jax.Array | None = None,
    padding: int = 4,
) -> jax.Array:
  """The usual augmentation of CIFAR, as in RotNet (Gidaris et al., 2018).

  Pads with black, cuts out a window of the former size, and flips. A picture of
  another size than `size` is first resized, cut to its central square if it is
  not square.

  Args:
    padding: Black pixels added at each edge, which is the largest shift.
    key, image, size, extent: See `jssl.augment.recipes`.

  Returns:
    The view.

  Example:
    >>> import functools
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> recipe = functools.partial(augment.pad_crop_and_flip, size=32)
    >>> jax.jit(recipe)(jax.random.key(1), image).shape
    (32, 32, 3)
  """
  crop_key, flip_key = jax.random.split(key)
  if extent is not None or image.shape[:2] != (size, size):
    image = evaluation(image, size, extent=extent)
  image = random_pad_and_crop(crop_key, image, size, padding=padding)
  return random_ops.random_flip(flip_key, image)


def multi_crop(
    key: jax.Array,
    image: jax.Array,
    recipe: Callable[..., jax.Array],
    count: int,
    *,
    extent: jax.Array | None = None,
) -> jax.Array:
  """Several views of one image by one recipe, such as SwAV's local crops.

  Args:
    recipe: A function (key, image, *, extent) -> view.
    count: Number of views.
    key, image, extent: See `jssl.augment.recipes`.

  Returns:
    float32 [count, h, w, C].

  Reference:
    Caron et al., Unsupervised Learning of Visual Features by Contrasting
    Cluster Assignments, 2020, section 3.2.

  Example:
    >>> import functools
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> local = functools.partial(augment.moco_v2, size=12, scale=(0.05, 0.2))
    >>> crops = functools.partial(augment.multi_crop, recipe=local, count=6)
    >>> jax.jit(crops)(jax.random.key(1), image).shape
    (6, 12, 12, 3)
  """
  keys = jax.random.split(key, count)
  return jax.vmap(lambda key: recipe(key, image, extent=extent))(keys)


def digits(
    key: jax.Array,
    image: jax.Array,
    size: int,
    *,
    extent: jax.Array | None = None,
    scale: tuple[float, float] = (0.8, 1.2),
    shear: float = 10.0,
) -> jax.Array:
  """A mild augmentation for small handwritten digits, 8 x 8 to 16 x 16.

  Small shifts and changes of stroke intensity. No flip, large rotation or tight
  crop, which would turn one digit into another.

  Args:
    image: float [H, W, C] in [0, 1], light strokes on black.
    scale: Range of the digit's size in the view; above 1 its edges are cut.
    shear: Largest slant, in degrees; 0 treats both axes alike.
    key, size, extent: See `jssl.augment.recipes`.

  Returns:
    The view.

  Example:
    >>> import functools
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (8, 8, 1))
    >>> recipe = functools.partial(augment.digits, size=16)
    >>> jax.jit(recipe)(jax.random.key(1), image).shape
    (16, 16, 1)
  """
  move_key, jitter_key = jax.random.split(key)
  image = random_ops.random_affine(
      move_key,
      image,
      size,
      degrees=15.0,
      translate=0.1,
      scale=scale,
      shear=shear,
      extent=extent,
  )
  return random_ops.random_color_jitter(
      jitter_key, image, brightness=0.3, contrast=0.2, saturation=0.0, hue=0.0
  )


def evaluation(
    image: jax.Array,
    size: int,
    *,
    crop_fraction: float = 1.0,
    extent: jax.Array | None = None,
) -> jax.Array:
  """Resizes the central square of the picture; nothing is random.

  Args:
    image: float [H, W, C].
    size: Static side of the result.
    crop_fraction: Side of the square relative to the picture's shorter side, in
      (0, 1]. ImageNet's "resize to 256, crop 224" is 0.875.
    extent: See `jssl.augment.recipes`.

  Returns:
    float32 [size, size, C].

  Raises:
    ValueError: If `crop_fraction` is out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jssl import augment
    >>> augment.evaluation(jnp.ones((40, 60, 3)), 32, crop_fraction=0.875).shape
    (32, 32, 3)
  """
  checks.check_image(image)
  if not 0 < crop_fraction <= 1:
    raise ValueError(
        f"crop_fraction must be within (0, 1], got {crop_fraction}; 1 takes the"
        " largest square."
    )
  canvas = jnp.asarray(image.shape[:2], jnp.float32)
  extent = canvas if extent is None else jnp.asarray(extent, jnp.float32)
  held = resampling.size_on_canvas(canvas, extent)
  sides = crop_fraction * jnp.min(extent) * held / extent
  box = jnp.concatenate([(held - sides) / 2, sides])
  return resampling.resized_crop(image, box, size)


def blur_kernel_size(size: int) -> int:
  """Returns an odd number near a tenth of `size`, at least 13 (224: 23).

  13 taps cover three times the papers' largest sigma, 2, on either side.
  """
  return max(13, 2 * (size // 20) + 1)


def _crop(key, image, size, scale, extent, method, operations="torchvision"):
  """The random resized crop that recipes begin with, in [0, 1]."""
  settings = {"method": method}
  if operations != "torchvision":
    # TensorFlow's bicubic differs, and has no antialiasing.
    if method == "bicubic":
      settings["method"] = "keys_cubic"
    settings["antialias"] = False
  image = random_resized_crop(
      key, image, size, scale=scale, extent=extent, **settings
  )
  return image if method == "bilinear" else jnp.clip(image, 0.0, 1.0)


def _keys(key):
  """Keys of the crop and of the operations of `_distort`."""
  return *jax.random.split(key, 5), jax.random.fold_in(key, 5)


def _distort(
    keys,
    image,
    size,
    jitter,
    blur_probability,
    solarize_probability=0.0,
    *,
    operations="torchvision",
):
  """Jitters colors, grays, blurs, solarizes and flips a view, at random."""
  jitter_key, gray_key, blur_key, flip_key, solarize_key = keys
  brightness, contrast, saturation, hue = jitter
  image = random_ops.random_color_jitter(
      jitter_key,
      image,
      brightness=brightness,
      contrast=contrast,
      saturation=saturation,
      hue=hue,
      probability=0.8,
      operations=operations,
  )
  image = random_ops.random_grayscale(gray_key, image, probability=0.2)
  image = random_ops.random_gaussian_blur(
      blur_key,
      image,
      kernel_size=blur_kernel_size(size),
      probability=blur_probability,
      padding="edge" if operations == "torchvision" else "zero",
  )
  image = random_ops.random_solarize(
      solarize_key, image, probability=solarize_probability
  )
  return random_ops.random_flip(flip_key, image)


def keep_size(recipe: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Sets a recipe's `size` to the height of each image.

  Args:
    recipe: A recipe, `(key, image, size, *, extent) -> view`.

  Returns:
    A function `(key, image, *, extent) -> view` for `make_views`: from float
    [H, W, C] to float32 [H, H, C].

  Example:
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> recipe = augment.keep_size(augment.moco_v2)
    >>> jax.jit(recipe)(jax.random.key(1), image).shape
    (32, 32, 3)
  """

  def bound(key, image, *, extent=None):
    return recipe(key, image, image.shape[0], extent=extent)

  return functools.update_wrapper(bound, recipe)


RECIPES = {
    "moco_v1": moco_v1,
    "moco_v2": moco_v2,
    "simclr": simclr,
    "byol": byol,
    "crop_and_flip": crop_and_flip,
    "pad_crop_and_flip": pad_crop_and_flip,
    "digits": digits,
}
