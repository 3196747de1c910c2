"""Sections that several config files share: optimizers and views."""

from typing import Any


def sgd(
    *, reference_batch_size: int = 128, nesterov: bool = False, **settings: Any
) -> dict[str, Any]:
  """Returns an optimizer section: SGD with momentum 0.9, cosine schedule.

  Args:
    reference_batch_size: The learning rate is scaled in proportion to the batch
      size, relative to this one; 0 to use it as it is.
    nesterov: See `jssl.optim.sgd`.
    **settings: "learning_rate", the peak; "weight_decay"; and, 0 by default,
      "warmup_epochs" of linear warm-up, the "end" of the schedule, and
      "clip_norm".
  """
  own = {"name": "sgd", "momentum": 0.9, "nesterov": nesterov}
  return _optimizer(own, reference_batch_size, **settings)


def lars(*, reference_batch_size: int = 256, **settings: Any) -> dict[str, Any]:
  """Returns an optimizer section: LARS; `settings` are those of `sgd`."""
  own = {"name": "lars", "momentum": 0.9, "vector_scale": 1.0}
  return _optimizer(own, reference_batch_size, **settings)


def adamw(
    *, reference_batch_size: int = 256, **settings: Any
) -> dict[str, Any]:
  """Returns an optimizer section: AdamW; `settings` are those of `sgd`."""
  own = {"name": "adamw", "exclude_vectors": True}
  return _optimizer(own, reference_batch_size, **settings)


def staircase(
    *, drops: tuple[float, ...], factor: float = 0.1, warmup_epochs: float = 0.0
) -> dict[str, Any]:
  """Returns a schedule section: see `jssl.optim.staircase`."""
  return {
      "name": "staircase",
      "drops": drops,
      "factor": factor,
      "warmup_epochs": warmup_epochs,
  }


def byol_views(
    *, scale: tuple[float, float], blur: bool = True, **settings: Any
) -> dict[str, Any]:
  """Returns the sections of BYOL's two views, see `jssl.augment.byol`.

  Args:
    scale: Range of the crop's area, relative to the picture's.
    blur: Whether to blur; usually not for CIFAR.
    **settings: Other entries of both views.
  """
  view = {
      "name": "byol",
      "scale": scale,
      "method": "bicubic",
      "operations": "torchvision",
      **settings,
  }
  return {
      "augment": {
          **view,
          "blur_probability": 1.0 if blur else 0.0,
          "solarize_probability": 0.0,
      },
      "second_augment": {
          **view,
          "blur_probability": 0.1 if blur else 0.0,
          "solarize_probability": 0.2,
      },
  }


def crop_and_flip(
    *, scale: tuple[float, float], **settings: Any
) -> dict[str, Any]:
  """Returns a view section: see `jssl.augment.crop_and_flip`."""
  return {
      "name": "crop_and_flip",
      "scale": scale,
      "method": "bilinear",
      "flip_probability": 0.5,
      **settings,
  }


def moco_view(**settings: Any) -> dict[str, Any]:
  """Returns a view section: see `jssl.augment.moco_v2`."""
  return {
      "name": "moco_v2",
      "scale": (0.2, 1.0),
      "blur_probability": 0.5,
      "method": "bilinear",
      **settings,
  }


def simclr_view(**settings: Any) -> dict[str, Any]:
  """Returns a view section: see `jssl.augment.simclr`."""
  return {
      "name": "simclr",
      "scale": (0.08, 1.0),
      "strength": 1.0,
      "blur_probability": 0.5,
      "method": "bilinear",
      "operations": "torchvision",
      **settings,
  }


def _optimizer(
    own,
    reference_batch_size,
    *,
    learning_rate,
    weight_decay,
    warmup_epochs=0.0,
    end=0.0,
    clip_norm=0.0,
):
  return {
      "learning_rate": learning_rate,
      # The learning rate is for batches of this size, and scaled in proportion
      # to the batch size; 0 to use it as it is.
      "reference_batch_size": reference_batch_size,
      "weight_decay": weight_decay,
      # Largest gradient norm, 0 for no limit: of all parameters together, or
      # with clip_per_parameter of each.
      "clip_norm": clip_norm,
      "clip_per_parameter": False,
      "schedule": {
          "name": "cosine",
          "warmup_epochs": float(warmup_epochs),
          # Unlike the peak, start and end do not depend on the batch size.
          "start": 0.0,
          "end": end,
      },
      **own,
  }
