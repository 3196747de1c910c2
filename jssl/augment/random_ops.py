"""Random operations on one image; the settings are Python numbers.

The same key gives the same result. Map over a batch with `jax.vmap` and one key
per image. `probability` is the probability that an image is changed at all; the
operations raise ValueError if it or another setting is out of its range.
"""

from collections.abc import Callable
import functools
import math

import jax
import jax.numpy as jnp

from jssl.augment import checks, ops, resampling

# Which code's color operations to follow, see `random_color_jitter`.
OPERATIONS = ("torchvision", "simclr", "byol")


def random_color_jitter(
    key: jax.Array,
    image: jax.Array,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    probability: float = 1.0,
    operations: str = "torchvision",
) -> jax.Array:
  """Changes brightness, contrast, saturation and hue, in random order.

  Each image draws its own factors, uniform in [max(0, 1 - x), 1 + x] for the
  first three and in [-x, x] turns for hue, and its own order of the four.

  The operations of the papers' code differ. "torchvision" changes contrast
  around the mean luma and saturation around each pixel's luma. "simclr" is
  TensorFlow's: contrast around the mean of each channel, saturation in HSV.
  "byol" is the same with a brightness that is added, in [-x, x] (as in the
  first version of SimCLR's code). All clip after each operation.

  Args:
    key: A PRNG key.
    image: float [H, W, C] in [0, 1], C = 1 (hue and saturation change nothing)
      or 3.
    brightness: Largest change of the factor, at least 0.
    contrast: Largest change of the factor, at least 0.
    saturation: Largest change of the factor, at least 0.
    hue: Largest rotation of the hue, in [0, 0.5] turns.
    probability: See the module.
    operations: "torchvision", "simclr" or "byol".

  Returns:
    float [H, W, C] in [0, 1].

  Raises:
    ValueError: If a setting is out of range, or `operations` is unknown.

  Example:
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> jittered = augment.random_color_jitter(
    ...     jax.random.key(1),
    ...     image,
    ...     brightness=0.4,
    ...     contrast=0.4,
    ...     saturation=0.4,
    ...     hue=0.1,
    ... )
    >>> jittered.shape, bool(jittered.min() >= 0), bool(jittered.max() <= 1)
    ((32, 32, 3), True, True)
  """
  checks.check_limit("brightness", brightness)
  checks.check_limit("contrast", contrast)
  checks.check_limit("saturation", saturation)
  checks.check_limit("hue", hue, highest=0.5)
  checks.check_color(image)
  if operations not in OPERATIONS:
    raise ValueError(
        f"operations must be one of {', '.join(OPERATIONS)}, got"
        f" {operations!r}."
    )

  def jitter(key: jax.Array, image: jax.Array) -> jax.Array:
    times, factors, turn = _draw_jitter(
        key, (brightness, contrast, saturation), hue
    )
    # Under vmap a switch would compute all four operations at each of four
    # positions. Only contrast needs the whole image, its mean: what comes
    # before it is one pass over the pixels, and what comes after it another.
    adjust = functools.partial(
        _adjust_pixels,
        times=times,
        factors=factors,
        turn=turn if hue > 0 else None,
        operations=operations,
    )
    before = times < times[1]
    planes = adjust(ops.channels(image), due=before)
    if operations == "torchvision":
      means = [jnp.mean(ops.luma_of(planes))] * len(planes)
    else:
      means = [jnp.mean(x) for x in planes]
    planes = [ops.blend(x, mean, factors[1]) for x, mean in zip(planes, means)]
    return jnp.stack(adjust(planes, due=~before), axis=-1)

  return _sometimes(jitter, key, image, probability)


def random_grayscale(
    key: jax.Array, image: jax.Array, *, probability: float = 0.2
) -> jax.Array:
  """Replaces the color by gray, in all channels, with `probability`.

  Args:
    key: A PRNG key.
    image: float [H, W, C] in [0, 1], C = 1 or 3.
    probability: See the module.

  Returns:
    float [H, W, C] in [0, 1].

  Example:
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> key = jax.random.key(1)
    >>> gray = augment.random_grayscale(key, image, probability=1.0)
    >>> bool((gray[..., 0] == gray[..., 2]).all())
    True
  """
  operation = lambda _, x: ops.to_grayscale(x)
  return _sometimes(operation, key, image, probability)


def random_gaussian_blur(
    key: jax.Array,
    image: jax.Array,
    *,
    kernel_size: int,
    sigma: tuple[float, float] = (0.1, 2.0),
    probability: float = 0.5,
    padding: str = "reflect",
) -> jax.Array:
  """Blurs with `probability`, each image with its own sigma.

  Args:
    key: A PRNG key.
    image: float [H, W, C].
    kernel_size: Static odd number of taps along each axis.
    sigma: Lowest and highest standard deviation in pixels, drawn uniformly.
    probability: See the module.
    padding: See `gaussian_blur`.

  Returns:
    float32 [H, W, C].

  Raises:
    ValueError: As `gaussian_blur`, or if a setting is out of range.

  Example:
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> blurred = augment.random_gaussian_blur(
    ...     jax.random.key(1), image, kernel_size=7, probability=1.0
    ... )
    >>> bool(blurred.std() < image.std())
    True
  """
  checks.check_range("sigma", sigma)

  def blur(key: jax.Array, image: jax.Array) -> jax.Array:
    drawn = jax.random.uniform(key, minval=sigma[0], maxval=sigma[1])
    return ops.gaussian_blur(
        image, drawn, kernel_size=kernel_size, padding=padding
    )

  return _sometimes(blur, key, image, probability)


def random_solarize(
    key: jax.Array,
    image: jax.Array,
    *,
    threshold: float = 0.5,
    probability: float = 0.2,
) -> jax.Array:
  """Inverts the values at or above `threshold` with `probability`.

  Args:
    key: A PRNG key.
    image: float [H, W, C] in [0, 1].
    threshold: In [0, 1].
    probability: See the module.

  Returns:
    float [H, W, C] in [0, 1].

  Example:
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> key = jax.random.key(1)
    >>> solarized = augment.random_solarize(key, image, probability=1.0)
    >>> bool(solarized.max() <= 0.5)
    True
  """
  checks.check_limit("threshold", threshold, highest=1.0)
  operation = lambda _, x: ops.solarize(x, threshold)
  return _sometimes(operation, key, image, probability)


def random_flip(
    key: jax.Array, image: jax.Array, *, probability: float = 0.5
) -> jax.Array:
  """Mirrors the image left to right with `probability`.

  Args:
    key: A PRNG key.
    image: [H, W, C], of any dtype.
    probability: See the module.

  Returns:
    [H, W, C], of the same dtype.

  Example:
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> flipped = augment.random_flip(jax.random.key(1), image, probability=1.0)
    >>> bool((flipped == image[:, ::-1]).all())
    True
  """
  operation = lambda _, x: ops.flip_left_right(x)
  return _sometimes(operation, key, image, probability)


def random_affine(
    key: jax.Array,
    image: jax.Array,
    size: int | tuple[int, int],
    *,
    degrees: float = 0.0,
    translate: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    shear: float = 0.0,
    fill: float = 0.0,
    extent: jax.Array | None = None,
) -> jax.Array:
  """Rotates, shifts, zooms and shears around the center, and resizes.

  All in one bilinear resampling. Rotation and shear act in pixels, so they do
  not distort an image that is not square.

  Args:
    key: A PRNG key.
    image: float [H, W, C].
    size: Static height and width of the result; an int means a square.
    degrees: Largest rotation in either direction.
    translate: Largest shift in either direction, on each axis, relative to the
      image's side.
    scale: Lowest and highest magnification, drawn log-uniformly.
    shear: Largest slant of the vertical in either direction, in degrees below
      90.
    fill: Value outside the image.
    extent: The true (height, width) of a picture on a canvas, [2], may be
      traced, as in `random_resized_crop`. None for the image's own.

  Returns:
    float32 [h, w, C].

  Raises:
    ValueError: As `affine`, or if a setting is out of range.

  Example:
    >>> import jax
    >>> from jssl import augment
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> augment.random_affine(jax.random.key(1), image, 28, degrees=15.0).shape
    (28, 28, 3)
  """
  checks.check_image(image)
  checks.check_limit("degrees", degrees, highest=180.0)
  checks.check_limit("translate", translate, highest=1.0)
  checks.check_limit("shear", shear, highest=89.0)
  checks.check_range("scale", scale)
  height, width = image.shape[:2] if extent is None else extent
  matrix = _draw_affine(key, height / width, degrees, translate, scale, shear)
  if extent is not None:
    # From the picture to its part of the canvas: x and y from -1 to 1 there.
    canvas = jnp.asarray(image.shape[:2], jnp.float32)
    held = resampling.size_on_canvas(canvas, extent)
    share = (held / canvas)[::-1, None]
    matrix = share * matrix + jnp.pad(share - 1, ((0, 0), (2, 0)))
    row, column = jnp.indices(image.shape[:2])[..., None]
    image = jnp.where((row < held[0]) & (column < held[1]), image, fill)
  return resampling.affine(image, matrix, size, fill=fill)


def _draw_affine(key, aspect, degrees, translate, scale, shear):
  """Draws the matrix [2, 3] from the result's points to the image's."""
  angle, slant, zoom, x, y = jax.random.uniform(
      key, (5,), minval=-1.0, maxval=1.0
  )
  angle *= math.radians(degrees)
  slant = jnp.tan(slant * math.radians(shear))
  middle = math.log(scale[0] * scale[1]) / 2
  zoom = jnp.exp(middle + zoom * math.log(scale[1] / scale[0]) / 2)
  # The inverse map: R(angle) Shear / zoom.
  cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
  linear = jnp.array([
      [cos, (cos * slant - sin) * aspect],
      [sin / aspect, sin * slant + cos],
  ])
  # A shift by t shows at a point what was at the point minus t.
  shift = 2 * translate * jnp.stack([x, y])
  offset = -jnp.sum(linear * shift, axis=1, keepdims=True)
  return jnp.concatenate([linear, offset], axis=1)


def _draw_jitter(
    key: jax.Array, strengths: tuple[float, float, float], hue: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Draws the order of the operations and their amounts.

  Args:
    key: A PRNG key.
    strengths: Largest change of brightness, contrast and saturation.
    hue: Largest rotation of the hue.

  Returns:
    times: float [4], of brightness, contrast, saturation and hue; the earliest
      comes first.
    factors: float [3], of brightness, contrast, saturation.
    turn: scalar, of the hue.
  """
  # One draw for all: each call of the generator is slow to compile.
  times, amounts = jax.random.uniform(key, (2, 4))
  strength = jnp.array(strengths)
  lowest = jnp.maximum(0.0, 1.0 - strength)
  factors = lowest + amounts[:3] * (1.0 + strength - lowest)
  turn = hue * (2.0 * amounts[3] - 1.0)
  return times, factors, turn


def _adjust_pixels(
    planes: ops.Channels,
    *,
    times: jax.Array,
    factors: jax.Array,
    turn: jax.Array | None,
    due: jax.Array,
    operations: str,
) -> ops.Channels:
  """Adjusts brightness, saturation and hue in their order, if they are due.

  Args:
    planes: Channels in [0, 1].
    times: See `_draw_jitter`.
    factors: See `_draw_jitter`.
    turn: See `_draw_jitter`; None for no change of hue.
    due: Bool [4], whether brightness, contrast (ignored), saturation and hue
      are due.
    operations: See `random_color_jitter`.

  Returns:
    The adjusted channels, in [0, 1].
  """
  brightness, _, saturation, hue = times

  def choose(when, changed, planes):
    return [jnp.where(when, new, x) for new, x in zip(changed, planes)]

  def brighten(planes, when):
    if operations == "byol":
      change = lambda x: jnp.clip(x + (factors[0] - 1.0), 0.0, 1.0)
    else:
      change = lambda x: ops.blend(x, 0.0, factors[0])
    return choose(due[0] & when, map(change, planes), planes)

  def saturate(planes, when):
    gray, factor = ops.luma_of(planes), factors[2]
    if operations != "torchvision":
      gray, factor = ops.largest_of(planes), ops.hsv_factor(planes, factor)
    changed = [ops.blend(x, gray, factor) for x in planes]
    return choose(due[2] & when, changed, planes)

  # One of the places of each operation is the one that its time asks for.
  planes = brighten(planes, (brightness < saturation) & (brightness < hue))
  planes = saturate(planes, saturation < hue)
  planes = brighten(planes, (saturation <= brightness) & (brightness < hue))
  if turn is not None and len(planes) == 3:
    planes = choose(due[3], ops.rotate_hue(planes, turn), planes)
  planes = brighten(planes, (hue <= brightness) & (brightness < saturation))
  planes = saturate(planes, hue <= saturation)
  return brighten(planes, (saturation <= brightness) & (hue <= brightness))


def _sometimes(
    operation: Callable[[jax.Array, jax.Array], jax.Array],
    key: jax.Array,
    image: jax.Array,
    probability: float,
) -> jax.Array:
  """Returns operation(key, image) with `probability`, else `image`."""
  checks.check_probability(probability)
  if probability == 0:
    return image
  whether_key, key = jax.random.split(key)
  changed = operation(key, image)
  if probability == 1:
    return changed
  return jnp.where(
      jax.random.bernoulli(whether_key, probability), changed, image
  )
