"""Checks of the arguments of evaluations."""

import jax
import numpy as np

from jssl.embeddings import AnyArray


def check_labels(
    labels: AnyArray, num_classes: int | None = None, *, name: str = "labels"
) -> None:
  """Checks that labels are classes, and none is -1 for an unlabelled image.

  Args:
    labels: int `[N]`. Tracers pass.
    num_classes: Number of classes; None if any is allowed.
    name: Name of the labels in messages.

  Raises:
    ValueError: If a label is below 0, or not below `num_classes`.
  """
  if isinstance(labels, jax.core.Tracer) or not labels.size:
    return
  labels = np.asarray(labels)
  if unlabelled := int((labels < 0).sum()):
    raise ValueError(
        f"{unlabelled} of {labels.size} {name} are below 0 (such as"
        f" {labels.min()}):"
        " images without a label. Leave these and their features out, with"
        " features[labels >= 0]."
    )
  if num_classes is not None and labels.max() >= num_classes:
    raise ValueError(
        f"{name} go up to {labels.max()}, but num_classes is {num_classes};"
        " expected labels in [0, num_classes)."
    )
