"""Vision transformers."""

import functools
import inspect
import math
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate

from jssl.nets import MicroBatched, vit

# Of timm's models without the last linear layer.
PUBLISHED = {
    "vit_tiny": 5_524_416,
    "vit_small": 21_665_664,
    "vit_base": 85_798_656,
    "vit_large": 303_301_632,
}
WIDTH, HEADS, PATCH, SIDE = 16, 2, 4, 16


def _tiny(**arguments):
  sizes = dict(width=WIDTH, depth=2, heads=HEADS, patch_size=PATCH)
  return vit.ViT(**sizes | {"image_size": SIDE} | arguments)


def _images(height=SIDE, width=SIDE):
  random = np.random.default_rng(0)
  return random.uniform(size=(3, height, width, 3)).astype(np.float32)


def _randomised(tree):
  """Parameters that no default could stand in for, and attention that peaks."""
  random = np.random.default_rng(1)
  return jax.tree.map(
      lambda x: random.normal(size=x.shape, scale=0.4).astype(np.float32), tree
  )


@functools.cache
def _variables(**arguments):
  return _randomised(
      jax.eval_shape(_tiny(**arguments).init, jax.random.key(0), _images())
  )


def _apply(images, variables=None, rngs=None, train=False, **arguments):
  variables = _variables(**arguments) if variables is None else variables
  apply = functools.partial(_tiny(**arguments).apply, train=train, rngs=rngs)
  return jax.jit(apply)(variables, images)


def _shapes(net, size):
  """Shapes of the features and variables; nothing is computed."""
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  return jax.eval_shape(net.init_with_output, jax.random.key(0), images)


def _edited(variables, changes):
  """Variables with some leaves multiplied: `{"out": 0}` clears those below."""

  def edit(path, x):
    for name, factor in changes.items():
      if name in jax.tree_util.keystr(path, simple=True, separator="/"):
        x = x * np.float32(factor)
    return x

  return jax.tree_util.tree_map_with_path(edit, variables)


# Without branches, a block gives what it takes.
NO_BRANCHES = {"/out/": 0, "/mlp_2/": 0}


# The slow reference, float64, image by image and head by head.


def _dense(x, params):
  return x @ params["kernel"] + params["bias"]


def _norm(x, params):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)
  return x * params["scale"] + params["bias"]


def _gelu(x):
  return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def _numpy_block(x, params, scales=(1, 1)):
  """A block on one image, `[T, D]`."""
  q, k, v = np.split(_dense(_norm(x, params["norm_1"]), params["qkv"]), 3, 1)
  heads = []
  for i in range(HEADS):
    of_head = np.s_[:, i * WIDTH // HEADS : (i + 1) * WIDTH // HEADS]
    scores = q[of_head] @ k[of_head].T / math.sqrt(WIDTH / HEADS)
    weights = np.exp(scores)
    heads.append(weights / weights.sum(1, keepdims=True) @ v[of_head])
  x = x + scales[0] * _dense(np.concatenate(heads, 1), params["out"])
  y = _gelu(_dense(_norm(x, params["norm_2"]), params["mlp_1"]))
  return x + scales[1] * _dense(y, params["mlp_2"])


def _numpy_vit(params, image):
  """Normalised tokens of one image, the class token first: `[1 + T, D]`."""
  image = (image - 0.5) / 0.25
  tokens = [(params["class_token"] + params["class_position"])[0]]
  for i in range(SIDE // PATCH):
    for j in range(SIDE // PATCH):
      patch = image[i * PATCH :, j * PATCH :][:PATCH, :PATCH]
      kernel = params["patch"]["kernel"]
      token = np.einsum("ijc,ijcd->d", patch, kernel) + params["patch"]["bias"]
      tokens.append(token + params["patch_positions"][i, j])
  x = np.stack(tokens)
  for i in (1, 2):
    x = _numpy_block(x, params[f"block_{i}"])
  return _norm(x, params["norm"])


def _double(tree):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def test_the_net_is_the_equation_of_the_paper():
  images, variables = _images(), _variables()
  features = _apply(images)
  params = _double(variables["params"])
  expected = np.stack([_numpy_vit(params, image) for image in _double(images)])
  np.testing.assert_allclose(
      features["pooled"], expected[:, 0], rtol=1e-4, atol=1e-4
  )
  np.testing.assert_allclose(
      features["stage_2"].reshape(3, -1, WIDTH),
      expected[:, 1:],
      rtol=1e-4,
      atol=1e-4,
  )


def _block_inputs(scale):
  random = np.random.default_rng(2)
  x = random.normal(size=(2, 5, WIDTH), scale=scale).astype(np.float32)
  weights = random.normal(size=x.shape)
  return _variables()["params"]["block_1"], x, weights.astype(np.float32)


# The variance of small tokens is that of the normalisation's epsilon.
@pytest.mark.parametrize(
    "scale,scales",
    [(1.0, None), (1e-3, None), (1.0, [[0.0, 1.25], [1.5, 0.0]])],
)
def test_a_block_agrees_with_slow_attention_in_value_and_gradient(
    scale, scales
):
  params, x, weights = _block_inputs(scale)

  def loss(params, x):
    of_branches = None if scales is None else jnp.asarray(scales)
    block = vit.Block(HEADS)
    y = block.apply({"params": params}, x, scales=of_branches)
    return jnp.sum(y * weights), y

  grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  (_, y), gradients = grad(params, x)

  def numpy_block(params, x):
    of_images = np.ones((len(x), 2)) if scales is None else np.transpose(scales)
    return np.stack(
        [_numpy_block(image, params, s) for image, s in zip(x, of_images)]
    )

  inputs = _double((params, x))
  np.testing.assert_allclose(y, numpy_block(*inputs), rtol=1e-4, atol=1e-4)

  # The slope along a random direction, one parameter at a time.
  random = np.random.default_rng(3)
  leaves, structure = jax.tree.flatten(inputs)
  for i, gradient in enumerate(jax.tree.leaves(gradients)):
    step = 1e-4 * min(scale, 0.1) * random.normal(size=leaves[i].shape)
    high, low = (
        numpy_block(*structure.unflatten(leaves[:i] + [x] + leaves[i + 1 :]))
        for x in (leaves[i] + step, leaves[i] - step)
    )
    np.testing.assert_allclose(
        np.sum(gradient * step) / np.linalg.norm(step),
        np.sum((high - low) * weights) / 2 / np.linalg.norm(step),
        rtol=1e-3,
        atol=1e-3,
    )


def test_the_last_normalisation_has_the_same_epsilon():
  variables = _edited(
      _variables(), NO_BRANCHES | {"class_": 1e-3, "patch": 1e-3}
  )
  params = _double(variables["params"])
  token = (params["class_token"] + params["class_position"])[0]
  expected = _norm(token, params["norm"])
  pooled = _apply(_images(), variables)["pooled"]
  np.testing.assert_allclose(pooled[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
  net = getattr(vit, name)()
  _, variables = _shapes(net, 224)
  shapes = [x.shape for x in jax.tree.leaves(variables["params"])]
  assert sum(map(math.prod, shapes)) == PUBLISHED[name]
  assert net.width == 64 * net.heads  # Which the count does not tell.


def test_a_config_can_change_all_of_a_named_net_but_its_width():
  net = vit.vit_small(heads=12, depth=1)
  assert (net.width, net.depth, net.heads) == (384, 1, 12)
  # `jssl.config.build` leaves out keys that are not in the signature.
  assert "width" not in inspect.signature(vit.vit_small).parameters


@pytest.mark.parametrize("size,grid", [(224, 14), (96, 6), (384, 24)])
def test_stages_are_maps_of_the_patches(size, grid):
  features, _ = _shapes(vit.vit_tiny(), size)
  assert {key: x.shape for key, x in features.items()} == {
      **{f"stage_{i}": (2, grid, grid, 192) for i in (1, 2, 3, 4)},
      "pooled": (2, 192),
  }


@pytest.mark.parametrize(
    "depth,ends",
    [(1, [1]), (3, [1, 2, 3]), (4, [1, 2, 3, 4]), (6, [1, 3, 4, 6])],
)
def test_stages_are_quarters_of_the_depth(depth, ends):
  arguments = dict(depth=depth, pooling="mean")
  images, variables = _images(), _variables(**arguments)
  features = _apply(images, **arguments)
  assert set(features) - {"pooled"} == {
      f"stage_{i + 1}" for i in range(len(ends))
  }
  x = _tiny(**arguments).apply(variables, images, method="embed")
  x = x.reshape(3, -1, WIDTH)
  for i in range(1, depth + 1):
    block = {"params": variables["params"][f"block_{i}"]}
    x = vit.Block(HEADS).apply(block, x)
    if i == depth:
      x = _norm(np.asarray(x), variables["params"]["norm"])
    if i in ends:
      actual = features[f"stage_{ends.index(i) + 1}"]
      np.testing.assert_allclose(
          actual.reshape(x.shape), x, rtol=1e-4, atol=1e-4
      )


@pytest.mark.parametrize("positions", ["learned", "sincos"])
@pytest.mark.parametrize("height,width", [(16, 16), (8, 24)])
def test_embedding_is_projection_plus_positions(positions, height, width):
  net = _tiny(positions=positions).bind(_variables(positions=positions))
  images, grid = _images(height, width), (height // PATCH, width // PATCH)
  projected, table = net.project(images), net.positions_of(grid)
  assert table.shape == (*grid, WIDTH)
  np.testing.assert_allclose(net.embed(images), projected + table, rtol=1e-6)
  # All of the position is in the table: a flat picture projects evenly.
  flat = net.project(np.full_like(images, 0.7))
  np.testing.assert_allclose(flat, flat[:, :1, :1] + 0 * flat, rtol=1e-5)
  assert np.max(np.abs(table - table[0, 0])) > 0.1


def test_blocks_take_any_number_of_tokens():
  net, variables = _tiny(), _variables()
  patches = net.apply(variables, _images(), method="embed")
  tokens = patches.reshape(3, -1, WIDTH)[:, ::3]
  *_, last = net.apply(variables, tokens, train=False, method="blocks")
  assert last.shape == (3, 1 + 6, WIDTH)


def test_sincos_positions_agree_with_the_reference(golden):
  expected = golden("sincos_2d")
  table = vit.sincos_2d(int(expected["dim"]), tuple(map(int, expected["grid"])))
  assert table.dtype == jnp.float32
  np.testing.assert_allclose(table, expected["embedding"], atol=1e-6)


@pytest.mark.parametrize("height,width", [(16, 16), (8, 24)])
def test_sincos_positions_are_those_of_the_grid_at_hand(height, width):
  net = _tiny(positions="sincos")
  variables = _variables(positions="sincos")
  assert not [name for name in variables["params"] if "position" in name]
  grid = (height // PATCH, width // PATCH)
  # Of gray pictures only the projection's bias is left.
  gray = np.full((1, height, width, 3), 0.5, np.float32)
  embedded = net.apply(variables, gray, method="embed")
  table = embedded[0] - variables["params"]["patch"]["bias"]
  np.testing.assert_allclose(
      table.reshape(-1, WIDTH), vit.sincos_2d(WIDTH, grid), atol=1e-6
  )


def _resized(table, grid):
  """The table that a net uses for images of a grid of patches."""
  variables = _edited(_variables(), {"patch/": 0})
  variables["params"]["patch_positions"] = table.astype(np.float32)
  images = _images(grid[0] * PATCH, grid[1] * PATCH)
  return _tiny().apply(variables, images, method="embed")[0]


def test_learned_positions_of_the_native_size_are_the_table():
  table = _variables()["params"]["patch_positions"]
  np.testing.assert_array_equal(_resized(table, (4, 4)), table)


@pytest.mark.parametrize("grid", [(8, 8), (6, 12), (3, 5)])
def test_a_smooth_table_stays_smooth_at_other_sizes(grid):
  # DINO's code asks for a tenth of a patch more than it takes.
  ramp = lambda count, new: (np.arange(new) + 0.5) * count / (new + 0.1) - 0.5
  slopes = np.random.default_rng(4).normal(size=(2, WIDTH))
  table = lambda rows, columns: (
      rows[:, None, None] * slopes[0] + columns[None, :, None] * slopes[1]
  )
  actual = _resized(table(np.arange(4), np.arange(4)), grid)
  expected = table(ramp(4, grid[0]), ramp(4, grid[1]))
  assert actual.shape == expected.shape
  # Beyond the outermost centres there is nothing to interpolate.
  inner = lambda new: (ramp(4, new) >= 1) & (ramp(4, new) <= 2)
  inside = np.ix_(inner(grid[0]), inner(grid[1]))
  assert expected[inside].size
  # A kernel of a = -0.75 is no line's, if nearly.
  steepest = np.max(np.abs(slopes).sum(axis=0))
  error = np.abs(actual[inside] - expected[inside])
  assert np.max(error) < 0.1 * steepest
  assert np.max(np.abs(actual - expected)) < 0.5 * np.max(np.abs(slopes))


# torch.nn.functional.interpolate(torch.eye(4, dtype=torch.float64).reshape(1,
# 4, 4, 1), scale_factor=((new + 0.1) / 4, 1), mode="bicubic"), as in DINO.
_RESIZED = {
    2: [
        [0.55351744, 0.53053463, -0.08405207, 0.0],
        [0.0, -0.11069606, 0.76995262, 0.34074344],
    ],
    4: [
        [1.00892462, -0.00892462, 0.0, 0.0],
        [0.02841841, 0.99704961, -0.02546802, 0.0],
        [-0.00261849, 0.05102536, 0.99191783, -0.0403247],
        [0.0, -0.00499893, 0.07417777, 0.93082116],
    ],
    6: [
        [1.08847974, -0.08847974, 0.0, 0.0],
        [0.51844042, 0.57213833, -0.09057875, 0.0],
        [-0.07741218, 0.95969418, 0.1302514, -0.0125334],
        [-0.02503995, 0.20591963, 0.91627534, -0.09715502],
        [0.0, -0.10197508, 0.65724348, 0.44473161],
        [0.0, 0.0, -0.06379375, 1.06379375],
    ],
}


@pytest.mark.parametrize("grid", [(2, 2), (2, 6), (6, 4)])
def test_positions_are_resized_as_by_dino(grid):
  table = np.random.default_rng(5).normal(size=(4, 4, WIDTH))
  # A side that stays is shifted by the tenth too, where the other changes.
  taps = [np.array(_RESIZED[x]) for x in grid]
  expected = np.einsum("ai,bj,ijd->abd", *taps, table)
  np.testing.assert_allclose(_resized(table, grid), expected, atol=1e-5)


@pytest.mark.parametrize("grid", [(7, 7), (3, 8)])
def test_positions_are_resized_as_by_timm(grid):
  table = np.random.default_rng(0).normal(size=(5, 5, 3)).astype("f")
  net = vit.ViT(
      3,
      1,
      1,
      patch_size=1,
      image_size=5,
      pooling="mean",
      position_resize="antialias",
  )
  found = net.apply(
      {"params": {"patch_positions": table}}, grid, method="positions_of"
  )
  # JAX has the same kernel, that of Keys with a = -0.5, which also widens.
  expected = jax.image.resize(table, (*grid, 3), "cubic", antialias=True)
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("how, side", [("bicubic", 16), ("dino", 16.1)])
def test_positions_are_resized_to_the_sides_or_a_tenth_more(how, side):
  random = np.random.default_rng(0)
  table = random.normal(size=8).astype("f")
  net = vit.ViT(
      1, 1, 1, patch_size=1, image_size=8, pooling="mean", position_resize=how
  )
  square = np.broadcast_to(table[:, None, None], (8, 8, 1))
  found = net.apply(
      {"params": {"patch_positions": square}}, (16, 16), method="positions_of"
  )
  inside = np.arange(4, 12)  # Whose taps are all in the table.
  place = (inside[:, None] + 0.5) * 8 / side - 0.5
  x = np.abs(place - np.arange(8))
  near = 1.25 * x**3 - 2.25 * x**2 + 1  # PyTorch's kernel, a = -0.75.
  far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
  weights = np.where(x < 1, near, np.where(x < 2, far, 0))
  np.testing.assert_allclose(found[4:12, 8, 0], weights @ table, atol=1e-5)


def test_registers_attend_and_are_not_part_of_the_features():
  net = vit.ViT(8, 2, 2, patch_size=4, image_size=8, registers=3)
  images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
  variables = net.init(jax.random.key(1), images)
  tokens = variables["params"]["register_tokens"]
  assert tokens.shape == (3, 8) and net.first_patch == 4
  apply = jax.jit(net.apply)
  features = apply(variables, images)
  assert features["stage_2"].shape == (2, 2, 2, 8)
  blocks = functools.partial(
      net.apply, variables, grid=(2, 2), train=False, method="blocks"
  )
  patches = net.apply(variables, images, method="embed").reshape(2, 4, 8)
  last = blocks(patches)[-1]
  assert last.shape == (2, 1 + 3 + 4, 8)
  np.testing.assert_allclose(features["pooled"], last[:, 0], atol=1e-5)
  np.testing.assert_allclose(
      features["stage_2"].reshape(2, 4, 8), last[:, 4:], atol=1e-5
  )
  changed = {**variables["params"], "register_tokens": 100 * tokens}
  other = apply({"params": changed}, images)
  assert np.abs(other["pooled"] - features["pooled"]).max() > 1e-3


def test_registers_have_no_relative_positions():
  net = vit.ViT(
      8, 1, 2, patch_size=4, image_size=8, registers=1, positions="relative"
  )
  with pytest.raises(ValueError, match="registers is 1.*set registers to 0"):
    net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_a_gated_layer_is_that_of_dinov2():
  block = vit.Block(2, mlp_ratio=4, activation="swiglu")
  x = jax.random.normal(jax.random.key(0), (1, 3, 12))
  variables = block.init(jax.random.key(1), x)
  params = variables["params"]
  assert params["mlp_1"]["kernel"].shape == (12, 2 * 32)  # 32, of 4 x 12.
  # Without attention, what is left is the second branch.
  zero = jax.tree.map(jnp.zeros_like, params["out"])
  found = block.apply({"params": {**params, "out": zero}}, x)[0] - x[0]
  mean, std = x[0].mean(-1, keepdims=True), x[0].std(-1, keepdims=True)
  hidden = (x[0] - mean) / std @ params["mlp_1"]["kernel"]
  gate, value = np.split(np.asarray(hidden), 2, axis=-1)
  gated = gate / (1 + np.exp(-gate)) * value
  np.testing.assert_allclose(
      found, gated @ params["mlp_2"]["kernel"], atol=1e-5
  )


@pytest.mark.parametrize("positions", ["learned", "sincos"])
@pytest.mark.parametrize("side", [16, 24])
def test_the_position_of_the_class_token_is_its_own(positions, side):
  variables = _edited(_variables(positions=positions), NO_BRANCHES)
  params = _double(variables["params"])
  token = params["class_token"] + params.get("class_position", 0)
  expected = _norm(token, params["norm"])
  pooled = _apply(_images(side, side), variables, positions=positions)["pooled"]
  np.testing.assert_allclose(
      pooled, np.broadcast_to(expected, pooled.shape), rtol=1e-4, atol=1e-4
  )


def test_patches_are_pooled_next_to_a_class_token():
  features = _apply(_images(), _variables(), pooling="patches")
  same = _apply(_images())
  np.testing.assert_array_equal(features["stage_2"], same["stage_2"])
  np.testing.assert_allclose(
      features["pooled"], same["stage_2"].mean((1, 2)), rtol=1e-5, atol=1e-6
  )


def test_pooling_is_of_the_class_token_or_of_the_patches():
  token, mean = _variables()["params"], _variables(pooling="mean")["params"]
  assert set(token) - set(mean) == {"class_token", "class_position"}
  # The same numbers in both, except for the class token.
  mean = {"params": {name: token[name] for name in mean}}
  of_token, of_mean = _apply(_images()), _apply(_images(), mean, pooling="mean")
  for features, same in ((of_token, False), (of_mean, True)):
    expected = features["stage_2"].mean((1, 2))
    assert np.allclose(features["pooled"], expected, atol=1e-5) == same
  # Patches attend to the class token where there is one.
  assert not np.allclose(of_token["stage_1"], of_mean["stage_1"], atol=1e-3)


def test_images_are_normalised_by_mean_and_std():
  images = _images()
  mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
  inside = _apply(images, mean=mean, std=std)
  outside = (images - np.float32(mean)) / np.float32(std)
  outside = _apply(outside, mean=0.0, std=1.0)
  np.testing.assert_allclose(
      inside["pooled"], outside["pooled"], rtol=1e-4, atol=1e-5
  )


@functools.cache
def _started(weight_init):
  """Parameters of a net of two blocks, of which each has many numbers."""
  net = vit.vit_tiny(
      depth=2,
      patch_size=8,
      image_size=64,
      weight_init=weight_init,
      layer_scale=0.1,
  )
  images = np.zeros((1, 64, 64, 3), np.float32)
  return jax.jit(net.init)(jax.random.key(0), images)["params"]


def _is_uniform(x, bound):
  return 0.98 * bound < np.max(np.abs(x)) <= bound * (1 + 1e-6) and np.std(
      x
  ) == pytest.approx(bound / math.sqrt(3), rel=0.02)


def _is_normal(x, deviation, *, cut=math.inf):
  """Of a deviation, before it was cut."""
  if cut < math.inf:
    # A normal cut at one deviation has 0.54 of it.
    return np.max(np.abs(x)) <= cut and np.std(x) == pytest.approx(
        0.5396 * deviation, rel=0.03
    )
  return np.max(np.abs(x)) > 2 * deviation and np.std(x) == pytest.approx(
      deviation, rel=0.2 if x.size < 200 else 0.03
  )


@pytest.mark.parametrize("weight_init", vit.WEIGHT_INITS)
def test_biases_start_at_0_and_scales_at_theirs(weight_init):
  for path, x in jax.tree_util.tree_leaves_with_path(_started(weight_init)):
    match path[-1].key:
      case "bias":
        assert not np.any(x)
      case "scale":
        assert np.all(x == 1)
      case "scale_1" | "scale_2":
        np.testing.assert_allclose(x, 0.1)


def test_parameters_start_as_in_dino():
  params = _started("dino")
  for name in ("qkv", "out", "mlp_1", "mlp_2"):
    assert _is_normal(params["block_2"][name]["kernel"], 0.02)
  for name in ("patch_positions", "class_token", "class_position"):
    assert _is_normal(params[name], 0.02)
  bound = 1 / math.sqrt(3 * 8 * 8)
  assert _is_uniform(params["patch"]["kernel"], bound)


def test_parameters_start_as_in_ijepa():
  params = _started("ijepa")
  for name in ("qkv", "out", "mlp_1", "mlp_2"):
    assert _is_normal(params["block_2"][name]["kernel"], 0.02)
  assert _is_normal(params["patch"]["kernel"], 0.02)


@pytest.mark.parametrize("weight_init", ["mae", "moco_v3"])
def test_parameters_start_as_in_mae_and_moco_v3(weight_init):
  params = _started(weight_init)
  # MAE counts queries, keys and values as one layer, MoCo v3 as three.
  out = {"qkv": 192 if weight_init == "moco_v3" else 3 * 192, "out": 192}
  for name, fan_out in (out | {"mlp_1": 768, "mlp_2": 768}).items():
    bound = math.sqrt(6 / (192 + fan_out))
    assert _is_uniform(params["block_2"][name]["kernel"], bound), name
  bound = math.sqrt(6 / (3 * 8 * 8 + 192))
  assert _is_uniform(params["patch"]["kernel"], bound)
  deviation = 1e-6 if weight_init == "moco_v3" else 0.02
  assert _is_normal(params["class_token"], deviation)


def test_parameters_start_as_in_simmim():
  params = _started("simmim")
  for block in (1, 2):
    layers = params[f"block_{block}"]
    for name in ("qkv", "mlp_1"):
      assert _is_normal(layers[name]["kernel"], 0.02, cut=0.02)
    deviation = 0.02 / math.sqrt(2 * block)
    for name in ("out", "mlp_2"):
      assert _is_normal(layers[name]["kernel"], deviation, cut=deviation)
  assert _is_normal(params["patch"]["kernel"], 0.02, cut=0.02)
  assert np.max(np.abs(params["class_token"])) <= 0.02


# The net of BEiT and SimMIM.

BEIT = dict(
    positions="relative", layer_scale=0.1, key_bias=False, pooling="patches"
)


def _numpy_beit(params, image):
  """Normalised tokens of one image, pair by pair: `[1 + T, D]`."""
  side, depth = SIDE // PATCH, 2
  places = [(i, j) for i in range(side) for j in range(side)]
  tokens = [params["class_token"][0]]
  image = (image - 0.5) / 0.25
  for i, j in places:
    patch = image[i * PATCH :, j * PATCH :][:PATCH, :PATCH]
    kernel = params["patch"]["kernel"]
    token = np.einsum("ijc,ijcd->d", patch, kernel) + params["patch"]["bias"]
    tokens.append(token)
  x = np.stack(tokens)
  bias = np.zeros((len(x), len(x), HEADS))
  to_patches, to_class, to_itself = params["class_relative_positions"]
  bias[0, 1:], bias[1:, 0], bias[0, 0] = to_patches, to_class, to_itself
  for a, (i, j) in enumerate(places):
    for b, (k, m) in enumerate(places):
      table = params["relative_positions"]
      bias[1 + a, 1 + b] = table[i - k + side - 1, j - m + side - 1]
  for i in range(1, depth + 1):
    block = params[f"block_{i}"]
    y = _norm(x, block["norm_1"]) @ block["qkv"]["kernel"]
    q, k, v = np.split(y, 3, axis=1)
    q, v = q + block["query_bias"], v + block["value_bias"]
    heads = []
    for head in range(HEADS):
      of_head = np.s_[:, head * WIDTH // HEADS : (head + 1) * WIDTH // HEADS]
      scores = q[of_head] @ k[of_head].T / math.sqrt(WIDTH / HEADS)
      weights = np.exp(scores + bias[..., head])
      heads.append(weights / weights.sum(1, keepdims=True) @ v[of_head])
    y = _dense(np.concatenate(heads, 1), block["out"])
    x = x + block["scale_1"] * y
    y = _gelu(_dense(_norm(x, block["norm_2"]), block["mlp_1"]))
    x = x + block["scale_2"] * _dense(y, block["mlp_2"])
  return _norm(x, params["norm"])


def test_the_net_is_that_of_beit():
  images, variables = _images(), _variables(**BEIT)
  params = _double(variables["params"])
  assert set(params) == {
      *("patch", "class_token", "block_1", "block_2", "norm"),
      *("relative_positions", "class_relative_positions"),
  }
  assert "bias" not in params["block_1"]["qkv"]
  features = _apply(images, **BEIT)
  expected = np.stack([_numpy_beit(params, x) for x in _double(images)])
  np.testing.assert_allclose(
      features["stage_2"].reshape(3, -1, WIDTH),
      expected[:, 1:],
      rtol=1e-4,
      atol=1e-4,
  )
  np.testing.assert_allclose(
      features["pooled"], expected[:, 1:].mean(1), rtol=1e-4, atol=1e-4
  )


def test_relative_positions_start_without_influence():
  net = _tiny(**BEIT)
  params = jax.jit(net.init)(jax.random.key(0), _images())["params"]
  assert params["relative_positions"].shape == (7, 7, HEADS)
  assert not np.any(params["relative_positions"])
  assert not np.any(params["class_relative_positions"])
  assert params["block_1"]["scale_1"].shape == (WIDTH,)


def _table(grid, size=SIDE):
  """The bias of the attention of a grid, without the class token."""
  net = _tiny(positions="relative", pooling="mean", image_size=size)
  variables = _randomised(
      jax.eval_shape(net.init, jax.random.key(0), _images(size, size))
  )
  table = variables["params"]["relative_positions"]
  return table, net.apply(variables, grid, method="attention_bias")


def test_relative_positions_of_a_smaller_image_are_those_of_its_distances():
  table, bias = _table((2, 4), size=32)  # Of 8 x 8 patches.
  assert bias.shape == (HEADS, 8, 8)
  # Almost: entries lie at distances of 1, 2.01, 3.03, ...
  expected = table[7 - 1 : 7 + 2, 7 - 3 : 7 + 4]
  for a in range(8):
    for b in range(8):
      rows, columns = a // 4 - b // 4 + 1, a % 4 - b % 4 + 3
      np.testing.assert_allclose(
          bias[:, a, b], expected[rows, columns], atol=0.1
      )


def test_relative_positions_of_a_larger_image_are_splines_of_the_distances():
  # The distances of the table's 7 entries for 9 x 7, by the ratio q that makes
  # 1 + q + q^2 the largest of 9, 4.
  _, bias = _table((5, 4))
  table, same = _table((4, 4))
  q = (math.sqrt(13) - 1) / 2
  known = np.array([0, 1, 1 + q, 4])
  known = np.concatenate([-known[:0:-1], known])
  spline = scipy.interpolate.RectBivariateSpline
  columns = np.arange(7) - 3.0
  stretched = lambda x: np.concatenate([-x[:0:-1], x])
  r = 1.01  # As little as there is.
  near = stretched(np.array([0, 1, 1 + r, 1 + r + r**2]))
  for head in range(HEADS):
    make = spline(known, near, table[..., head], kx=3, ky=3, s=0)
    expected = make(np.arange(9) - 4.0, columns)
    for a, b in ((0, 19), (19, 0), (5, 14), (9, 9), (3, 16)):
      rows, across = a // 4 - b // 4, a % 4 - b % 4
      np.testing.assert_allclose(
          bias[head, a, b], expected[rows + 4, across + 3], atol=1e-3
      )
    # Of the native size it is the table.
    assert same[head, 0, 15] == table[0, 0, head]
    assert same[head, 15, 0] == table[6, 6, head]


def test_relative_positions_need_all_patches():
  net, variables = _tiny(positions="relative"), _variables(positions="relative")
  tokens = np.zeros((1, 3, WIDTH), np.float32)
  with pytest.raises(ValueError, match="need all patches .*'sincos' or 'lear"):
    net.apply(variables, tokens, train=False, method="blocks")


@pytest.mark.parametrize("arguments", [{}, BEIT])
def test_tokens_that_are_not_valid_have_no_influence(arguments):
  net, variables = _tiny(**arguments), _variables(**arguments)
  tokens = np.random.default_rng(7).normal(size=(2, 16, WIDTH))
  tokens = tokens.astype(np.float32)
  valid = np.random.default_rng(8).uniform(size=(2, 16)) < 0.6
  weights = np.random.default_rng(9).normal(size=(2, 17, WIDTH))
  weights[:, 1:] *= valid[..., None]

  @jax.jit
  def run(variables, tokens):
    def loss(variables, tokens):
      *_, last = net.apply(
          variables,
          tokens,
          grid=(4, 4),
          valid=valid,
          train=False,
          method="blocks",
      )
      return jnp.sum(last * weights)

    return jax.value_and_grad(loss, argnums=(0, 1))(variables, tokens)

  value, (slopes, along) = run(variables, tokens)
  other = np.where(valid[..., None], tokens, 5 - 3 * tokens)
  assert np.any(other != tokens)
  same, (same_slopes, _) = run(variables, other)
  assert value == same
  jax.tree.map(np.testing.assert_array_equal, slopes, same_slopes)
  assert not np.any(along[~valid]) and np.all(np.any(along[valid], axis=-1))
  # One that is valid has.
  first = np.arange(16) == np.argmax(valid, axis=1)[:, None]
  moved = np.where(first[..., None], -tokens, tokens)
  assert abs(run(variables, moved)[0] - value) > 1e-3


# Numbers.


def _exact_norm(x):
  x = x.astype(np.float64)
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("first", [0.0, 3000.0])
@pytest.mark.parametrize("mean", [0.0, 2000.0])
def test_normalisation_keeps_its_digits(mean, first):
  """At a large mean, and where the feature that it shifts by is far off."""
  x = np.random.default_rng(0).normal(size=(64, 256)) + mean
  x[:, 0] += first
  x = x.astype(np.float32)
  norm = vit.LayerNorm()
  variables = norm.init(jax.random.key(0), x)
  assert jax.tree.map(jnp.shape, variables["params"]) == {
      "scale": (256,),
      "bias": (256,),
  }
  y, pull = jax.vjp(lambda x: norm.apply(variables, x), x)
  exact = _exact_norm(x)
  np.testing.assert_allclose(y, exact, rtol=1e-4, atol=5e-4)
  # The slope along a direction, by small steps of float64.
  random = np.random.default_rng(1)
  weights, step = random.normal(size=(2, *x.shape))
  slope = np.sum(pull(weights.astype(np.float32))[0] * step)
  high, low = (_exact_norm(x.astype(float) + d * step) for d in (1e-4, -1e-4))
  expected = np.sum((high - low) * weights) / 2e-4
  assert slope == pytest.approx(expected, rel=2e-3)


def test_normalisation_of_bfloat16_is_that_of_its_numbers():
  x = np.random.default_rng(0).normal(size=(64, 256)) + 20
  x = jnp.asarray(x, jnp.bfloat16)
  norm = vit.LayerNorm(dtype=jnp.bfloat16)
  y = norm.apply(norm.init(jax.random.key(0), x), x)
  assert y.dtype == jnp.bfloat16
  exact = _exact_norm(np.asarray(x, np.float32))
  np.testing.assert_allclose(np.float32(y), exact, rtol=0.005, atol=1e-3)


def test_no_net_has_a_normalisation_of_another_kind():
  # LayerNorm's default subtracts squares, and so does jax.nn.standardize.
  root = pathlib.Path(vit.__file__).parents[1]
  text = {path: path.read_text() for path in root.rglob("*.py")}
  assert len(text) > 50
  makers = {path.name for path, x in text.items() if "nn.LayerNorm(" in x}
  assert makers <= {"peers.py"}  # PyTorch's.
  assert "nn.LayerNorm)" in text[pathlib.Path(vit.__file__)]
  assert not [path for path, x in text.items() if "nn.standardize(" in x]


def test_training_without_drop_path_needs_no_prng_key():
  train, evaluation = (_apply(_images(), train=x) for x in (True, False))
  jax.tree.map(np.testing.assert_array_equal, train, evaluation)


def test_drop_path_is_off_in_evaluation():
  plain = _apply(_images())
  dropping = _apply(
      _images(), rngs={"dropout": jax.random.key(0)}, drop_path=0.5
  )
  jax.tree.map(np.testing.assert_array_equal, plain, dropping)


def test_drop_path_is_off_without_a_key_as_in_a_target():
  plain = _apply(_images(), train=True)
  dropping = _apply(_images(), train=True, drop_path=0.5)
  jax.tree.map(np.testing.assert_array_equal, plain, dropping)


def _lots(net, size):
  """The scales that the blocks of a net are given in training."""
  found = []

  def record(next_call, args, kwargs, context):
    if "scales" in kwargs:
      found.append(kwargs["scales"])
    return next_call(*args, **kwargs)

  images = np.zeros((size, PATCH, PATCH, 3), np.float32)
  variables = jax.eval_shape(net.init, jax.random.key(0), images)
  zeros = jax.tree.map(jnp.zeros_like, variables)
  with nn.intercept_methods(record):
    net.apply(zeros, images, train=True, rngs={"dropout": jax.random.key(0)})
  return np.stack(found)


def test_drop_path_grows_linearly_over_the_depth():
  scales = _lots(_tiny(depth=5, drop_path=0.4, image_size=PATCH), 20_000)
  rates = np.array([0, 0.1, 0.2, 0.3, 0.4])
  for of_block, rate in zip(scales, rates):
    values = [0.0, 1 / (1 - rate)] if rate else [1.0]
    np.testing.assert_allclose(np.unique(of_block), values, rtol=1e-6)
  # Of 40,000 lots, with a deviation of 0.0025 at most.
  np.testing.assert_allclose(np.mean(scales == 0, (1, 2)), rates, atol=0.01)
  np.testing.assert_allclose(np.mean(scales, (1, 2)), 1, atol=0.02)


def test_drop_path_draws_each_branch_and_image_by_itself():
  scales = vit.branch_scales(jax.random.key(1), [0.5, 0.5, 0.5], 10_000)
  lots = np.asarray(scales == 0).reshape(6, -1)
  np.testing.assert_allclose(np.corrcoef(lots), np.eye(6), atol=0.05)
  # An image and the next one.
  shifted = np.corrcoef(lots[:, 1:], lots[:, :-1])[:6, 6:]
  np.testing.assert_allclose(shifted, 0, atol=0.05)
  other = vit.branch_scales(jax.random.key(2), [0.5, 0.5, 0.5], 10_000)
  assert abs(np.corrcoef(lots[0], np.ravel(other[0, 0] == 0))[0, 1]) < 0.05


def test_drop_path_is_drawn_once_in_a_forward_pass():
  net = _tiny(depth=4, drop_path=0.5)
  key = jax.random.key(0)
  apply = lambda v: net.apply(v, _images(), train=True, rngs={"dropout": key})
  text = str(jax.make_jaxpr(apply)(_variables(depth=4)))
  assert text.count("random_bits") == 1


def test_a_drop_path_of_one_leaves_out_the_last_block_and_not_the_first():
  features = _apply(
      _images(),
      _variables(),
      {"dropout": jax.random.key(0)},
      train=True,
      drop_path=1.0,
  )
  plain = _apply(_images())
  np.testing.assert_array_equal(features["stage_1"], plain["stage_1"])
  np.testing.assert_allclose(
      features["stage_2"],
      _norm(np.asarray(plain["stage_1"]), _variables()["params"]["norm"]),
      rtol=1e-4,
      atol=1e-4,
  )


def test_bfloat16_does_not_shift_the_mean_of_drop_path():
  """Rounded to bfloat16, 1 / 0.95 is 0.2% too large."""
  block = vit.Block(HEADS, dtype=jnp.bfloat16)
  x = jnp.zeros((1, 1, 512))
  shapes = jax.eval_shape(block.init, jax.random.key(0), x)
  variables = jax.tree.map(jnp.zeros_like, shapes)
  branch = jnp.linspace(0.5, 1, 512, dtype=jnp.bfloat16).astype(jnp.float32)
  variables["params"]["out"]["bias"] = branch
  y = block.apply(variables, x, scales=jnp.full((2, 1), 1 / 0.95))
  mean = np.mean(y / branch)  # Of results that were rounded up and down.
  assert mean == pytest.approx(1 / 0.95, rel=2e-4)


@pytest.mark.parametrize("pooling", ["token", "mean"])
def test_bfloat16_keeps_parameters_and_pooled_float32(pooling):
  net = _tiny(dtype=jnp.bfloat16, pooling=pooling)
  features, variables = _shapes(net, SIDE)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.float32.dtype}
  assert features["stage_1"].dtype == features["stage_2"].dtype == jnp.bfloat16
  assert features["pooled"].dtype == jnp.float32


def test_bfloat16_features_are_near_those_of_float32():
  # As at the start of training; with large weights, attention is a choice.
  variables = jax.jit(_tiny().init)(jax.random.key(0), _images())
  exact, rough = (
      _apply(_images(), variables, dtype=dtype)["pooled"]
      for dtype in (jnp.float32, jnp.bfloat16)
  )
  np.testing.assert_allclose(rough, exact, atol=0.05)
  assert not np.allclose(rough, exact, atol=1e-4)


@pytest.mark.parametrize("pooling", ["token", "mean"])
@pytest.mark.parametrize("positions", ["learned", "sincos"])
@pytest.mark.parametrize("side", [16, 24])
def test_gradient_reaches_every_parameter(pooling, positions, side):
  arguments = dict(pooling=pooling, positions=positions)
  weights = np.random.default_rng(6).normal(size=WIDTH)

  def loss(variables):
    images = _images(side, side)
    features = _tiny(**arguments).apply(variables, images, train=True)
    return jnp.sum(features["pooled"] * weights)

  gradients = jax.jit(jax.grad(loss))(_variables(**arguments))
  for path, x in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.max(np.abs(x)) > 1e-4, jax.tree_util.keystr(path)
    if "patch" in path:
      assert np.all(np.any(x, axis=-1))


def test_views_can_be_mapped():
  views = _images().reshape(3, 1, SIDE, SIDE, 3)
  apply = functools.partial(_tiny().apply, _variables())
  mapped = jax.jit(jax.vmap(apply))(views)["pooled"]
  np.testing.assert_allclose(
      mapped[:, 0], _apply(_images())["pooled"], rtol=1e-4, atol=1e-4
  )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_training_compiles_for_accelerators(dtype):
  def loss(variables, images):
    # JAX does not export cuDNN's kernel, which "auto" takes on a host with GPU.
    net = _tiny(dtype=dtype, attention="einsum")
    return jnp.sum(net.apply(variables, images, train=True)["pooled"])

  platforms = ["tpu", "cuda"]
  function = jax.jit(jax.grad(loss))
  exported = jax.export.export(function, platforms=platforms)
  assert exported(_variables(), _images()).platforms == tuple(platforms)


def test_parts_of_the_batch_drop_by_themselves_and_the_same_again_backward():
  """Else the gradient would be that of other lots than the value's."""
  net = MicroBatched(_tiny(drop_path=0.5), 4)
  images = np.repeat(_images()[:1], 16, axis=0)
  weights = np.random.default_rng(6).normal(size=(16, WIDTH))

  @jax.jit
  @jax.value_and_grad
  def loss(variables):
    rngs = {"dropout": jax.random.key(0)}
    pooled = net.apply(variables, images, train=True, rngs=rngs)["pooled"]
    return jnp.sum(pooled * weights)

  gradient = loss(_variables())[1]
  random = np.random.default_rng(7)
  step = jax.tree.map(
      lambda x: np.float32(1e-3 * random.normal(size=x.shape)), gradient
  )
  sides = (jax.tree.map(f, _variables(), step) for f in (np.add, np.subtract))
  high, low = (loss(side)[0] for side in sides)
  slope = sum(jax.tree.leaves(jax.tree.map(np.vdot, gradient, step)))
  np.testing.assert_allclose((high - low) / 2, slope, rtol=0.01)
  pooled = jax.jit(functools.partial(net.apply, train=True))(
      _variables(), images, rngs={"dropout": jax.random.key(0)}
  )["pooled"]
  # Equal images, of four parts of four, whose lots differ.
  lots = [np.unique(x.round(3), axis=0) for x in np.split(pooled, 4)]
  assert len({x.tobytes() for x in lots}) > 1


def test_parts_of_the_batch_give_the_same_features():
  net, images = _tiny(), _images()
  whole = _apply(images, train=True)
  apply = functools.partial(MicroBatched(net, 3).apply, train=True)
  parts = jax.jit(apply)(_variables(), images)
  for name, expected in whole.items():
    np.testing.assert_allclose(parts[name], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"pooling": "max"}, "'max'.*'token', 'mean'"),
        ({"positions": "none"}, "'none'.*'learned', 'sincos', 'relative'"),
        ({"weight_init": "he"}, "weight_init is 'he'; .*'dino', 'moco_v3'"),
        ({"layer_scale": -0.1}, "layer_scale is -0.1; .* or 0 for none"),
        ({"heads": 3}, "width of 16 .* 3 heads; change"),
        ({"image_size": 18}, "18 x 18 .* 4 x 4; change the image size"),
        (
            {"width": 18, "positions": "sincos"},
            "width 18 need a multiple of 4; change",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(_tiny(**arguments).init, jax.random.key(0), _images())


@pytest.mark.parametrize("height,width", [(16, 18), (18, 16)])
def test_images_that_patches_do_not_divide_are_refused(height, width):
  with pytest.raises(ValueError, match=f"{height} x {width} .* 4 x 4; change"):
    jax.eval_shape(_tiny().apply, _variables(), _images(height, width))
