"""Exported encoders: named arrays, and a program."""

import json
import subprocess
import sys

from flax import traverse_util
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import command
from jssl import augment, encoder, export, load_encoder
from jssl.config import build
import tiny_run

_SIZE = 16


def _images(count, size=_SIZE):
  random = np.random.default_rng(count)
  return random.integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp("run")
  # The central crop of evaluations is not part of an exported encoder.
  made = tiny_run.config(eval={"crop_fraction": 0.75})
  tiny_run.save(path, made)
  return path


@pytest.fixture(scope="module")
def trained(workdir):
  return encoder.load(str(workdir))


@jax.jit
def _prepared(images):
  """Images as the net sees them in evaluations."""
  return jax.vmap(lambda x: augment.evaluation(x, _SIZE, crop_fraction=0.75))(
      augment.to_float(jnp.asarray(images))
  )


def test_arrays_are_the_backbone_under_plain_names(trained, tmp_path):
  path = tmp_path / "encoder.safetensors"
  export.save_safetensors(trained, path)
  arrays = safetensors.numpy.load_file(path)
  params, carried = trained.params
  statistics = carried.batch_stats["net"]
  expected = traverse_util.flatten_dict(
      {"params": params["net"], "batch_stats": statistics}, sep="/"
  )
  assert arrays.keys() == expected.keys()
  assert "params/stage_1_block_1/conv_1/kernel" in arrays
  assert "batch_stats/stem_norm/mean" in arrays
  for name, value in expected.items():
    np.testing.assert_array_equal(arrays[name], value, err_msg=name)
  with safetensors.safe_open(path, framework="numpy") as file:
    metadata = file.metadata()
  assert json.loads(metadata["input_shape"]) == [16, 16, 3]
  assert json.loads(metadata["config"])["net"]["name"] == "resnet8"
  assert metadata["method"] == "moco_v2" and metadata["step"] == "7"
  assert [p.name for p in tmp_path.iterdir()] == ["encoder.safetensors"]


def test_the_loaded_net_gives_the_features_of_load_encoder(
    workdir, trained, tmp_path
):
  export.save_safetensors(trained, tmp_path / "x.safetensors")
  net, variables = export.load_safetensors(tmp_path / "x.safetensors")
  images = _images(3, 24)
  features = jax.jit(net.apply)(variables, _prepared(images))
  encode, params = load_encoder(str(workdir))
  expected = encode(params, images, stages=True)
  assert features.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(features[name], value, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["vit", "micro_batches"])
def test_other_nets_are_restored_too(tmp_path, name):
  made = tiny_run.config()
  if name == "vit":
    made.net.update(name="vit_micro", patch_size=8, pooling="mean")
  else:
    made.net.micro_batches = 4
  tiny_run.save(tmp_path / "run", made)
  trained = encoder.load(str(tmp_path / "run"))
  export.save_safetensors(trained, tmp_path / "x.safetensors")
  net, variables = export.load_safetensors(tmp_path / "x.safetensors")
  images = _images(2)
  features = jax.jit(net.apply)(variables, np.float32(images / 255))
  np.testing.assert_allclose(
      features["pooled"], trained.encode(trained.params, images), atol=1e-4
  )


_ELSEWHERE = """
import sys
sys.modules["jssl"] = sys.modules["flax"] = None
import numpy as np, jax, jax.export
call = jax.export.deserialize(open(sys.argv[1], "rb").read()).call
with np.load(sys.argv[2]) as archive:
  rows = {key: call(archive[key]) for key in archive}
np.savez(sys.argv[3], **rows)
"""


@pytest.mark.slow
@pytest.mark.parametrize("images", ["uint8", "float32"])
def test_the_program_runs_without_the_library(
    workdir, trained, tmp_path, images
):
  path = tmp_path / "encoder.stablehlo"
  export.save_stablehlo(trained, path, images=images)
  encode, params = load_encoder(str(workdir))
  batches, expected = {}, {}
  for count in (1, 3):
    large = _images(count, 24)
    prepared = np.asarray(_prepared(large))
    if images == "uint8":
      prepared = np.round(255 * prepared).astype(np.uint8)
    batches[str(count)] = prepared
    expected[str(count)] = encode(params, large)
  np.savez(tmp_path / "images.npz", **batches)
  done = subprocess.run(
      [sys.executable, "-c", _ELSEWHERE]
      + [str(tmp_path / x) for x in (path, "images.npz", "features.npz")],
      cwd=tmp_path,
      text=True,
      capture_output=True,
      timeout=120,
  )
  assert done.returncode == 0, done.stderr
  # Pixels rounded to 8 bits move features a little.
  close = 1e-4 if images == "float32" else 2e-2
  with np.load(tmp_path / "features.npz") as features:
    for count, value in expected.items():
      assert features[count].dtype == np.float32
      np.testing.assert_allclose(features[count], value, atol=close, rtol=close)
  exported = jax.export.deserialize(path.read_bytes())
  assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
  assert exported.in_avals[0].dtype == images
  # Neither heads nor queue nor optimizer are in it.
  net = build.net(trained.config)
  example = jnp.zeros((1, _SIZE, _SIZE, 3))
  shapes = jax.eval_shape(net.init, jax.random.key(0), example)
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
  assert path.stat().st_size < size + 100_000


def test_the_program_may_give_a_stage(trained, tmp_path):
  path = tmp_path / "encoder.stablehlo"
  export.save_stablehlo(trained, path, images="float32", stage="stage_1")
  images = np.asarray(_prepared(_images(2)))
  features = jax.export.deserialize(path.read_bytes()).call(images)
  expected = trained.encode(trained.params, _images(2), stages=True)["stage_1"]
  np.testing.assert_allclose(features, expected.mean((1, 2)), atol=1e-4)


def test_what_cannot_be_exported_is_refused(trained, tmp_path):
  path = tmp_path / "x.stablehlo"
  with pytest.raises(ValueError, match="'int8'; expected one of float32, uint"):
    export.save_stablehlo(trained, path, images="int8")
  with pytest.raises(ValueError, match="'stage_7'.*pooled, stage_1"):
    export.save_stablehlo(trained, path, stage="stage_7")
  assert not list(tmp_path.iterdir())


def test_files_of_other_programs_are_refused(tmp_path):
  path = tmp_path / "x.safetensors"
  with pytest.raises(FileNotFoundError):
    export.load_safetensors(path)
  path.write_bytes(b"nothing of the kind")
  with pytest.raises(ValueError, match="not a .safetensors file"):
    export.load_safetensors(path)
  safetensors.numpy.save_file({"a": np.zeros(3, np.float32)}, path)
  with pytest.raises(ValueError, match="format None; expected 'jssl backbone"):
    export.load_safetensors(path)


@pytest.mark.slow
def test_the_command_line(workdir, tmp_path):
  output = tmp_path / "new" / "encoder.safetensors"
  given = f"--workdir={workdir}"
  done = command.run("export", given, f"--output={output}")
  assert str(output) in done.stdout
  assert "params/stem/kernel" in safetensors.numpy.load_file(output)
  done = command.run("export", given, "--output=encoder.onnx", code=1)
  assert "'.onnx'; expected one of .safetensors, .stablehlo" in done.stderr
