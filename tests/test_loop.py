"""When the train loop does what, and what it logs."""

import types

from ml_collections import ConfigDict
import numpy as np
import pytest

from jssl import loop
from jssl.data import Images

_UNBALANCED = np.repeat([0, 3], [60, 6])


def _due(total_steps=40, steps_per_epoch=10, **intervals):
  """What is due by step, in calls of one step and of four."""
  settings = {"log": 50, "evaluate": 1.5, "save": 0.7} | intervals
  exp = types.SimpleNamespace(
      total_steps=total_steps,
      steps_per_epoch=steps_per_epoch,
      config=ConfigDict({
          "log": {"every_steps": settings["log"]},
          "eval": {"every_epochs": settings["evaluate"]},
          "checkpoint": {"every_epochs": settings["save"]},
      }),
  )
  due_after = loop._make_due_after(exp)

  def steps(name, count):
    return [
        step
        for step in range(0, total_steps + 1, count)
        if getattr(due_after(step, count), name)
    ]

  return steps


def test_each_interval_ends_where_it_is_set():
  steps = _due()
  assert steps("log", 1) == [10, 20, 30, 40]  # A row per epoch at least.
  assert steps("evaluate", 1) == [15, 30, 40]
  assert steps("save", 1) == [7, 14, 21, 28, 35, 40]
  assert _due(log=4)("log", 1) == [*range(4, 41, 4)]


def test_a_call_in_which_an_interval_ends_is_followed_by_what_is_due():
  steps = _due()
  assert steps("log", 4) == [12, 20, 32, 40]
  assert steps("evaluate", 4) == [16, 32, 40]
  assert steps("save", 4) == [8, 16, 24, 28, 36, 40]


def test_an_interval_is_at_least_a_step():
  steps = _due(total_steps=3, evaluate=0.01, save=0.01)
  assert steps("evaluate", 1) == steps("save", 1) == [1, 2, 3]


def test_nothing_is_due_before_the_first_step():
  assert not any(_due(total_steps=0)(name, 1) for name in ("log", "save"))
  assert not _due(total_steps=0)("evaluate", 1)


def _images(labels):
  pixels = np.zeros((len(labels), 1, 1, 1), np.uint8)
  return Images(pixels, labels, None, ("a", "b", "c", "d"), ())


@pytest.mark.parametrize(
    "k,train,test,logged",
    [
        (
            0,
            _UNBALANCED,
            [0],
            (
                "kNN uses 6 neighbours, since the smallest class has 6 training"
                " images;"
            ),
        ),
        (
            0,
            np.array([0, 1, 1, -1]),
            [0],
            (
                "kNN uses 1 neighbour, since the smallest class has 1 training"
                " image;"
            ),
        ),
        (0, np.repeat([0, 1], 200), [0], ""),
        (20, _UNBALANCED, [0], ""),
        (0, _UNBALANCED, [-1], ""),
        (0, np.full(9, -1), [0], ""),
    ],
)
def test_fewer_neighbours_are_logged(k, train, test, logged):
  exp = types.SimpleNamespace(
      config=ConfigDict({"eval": {"k": k}}),
      train=_images(train),
      test=_images(np.array(test)),
  )
  lines = []
  recorder = types.SimpleNamespace(log=lines.append)
  loop._log_neighbours(exp, recorder)
  assert len(lines) == bool(logged)
  assert logged in "".join(lines)
