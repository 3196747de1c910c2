"""What may change in a config when its run is resumed."""

import pytest

from jssl.config import changes, of_method

_STEPS = 11  # Per epoch.


# Another value of each, in a config of moco_v2 for digits.
_FREE = {
    "checkpoint.keep": 7,
    "data.cache": "x",
    "data.data_dir": "x",
    "data.max_broken": 0.5,
    "data.stream": "always",
    "data.workers": 3,
    "epochs": 9.0,
    "eval.k": 3,
    "log.every_steps": 3,
    "max_skipped": 3,
    "net.attention": "einsum",
    "optimizer.learning_rate": 1.0,
    "optimizer.schedule.warmup_epochs": 1.0,
    "optimizer.weight_decay": 1.0,
    "precision": "bfloat16",
    "steps_per_dispatch": 3,
}
_FIXED = {
    "accumulate_steps": 2,
    "augment.name": "simclr",
    "batch_size": 64,
    "data.canvas": 9,
    "data.name": "photos",
    "data.train": "train[:50%]",
    "image_size": 8,
    "method.temperature": 1.0,
    "net.width": 8,
    "optimizer.momentum": 0.5,
    "optimizer.name": "lars",
    "seed": 1,
}


def _config(changed=()):
  """A config of four epochs."""
  config = of_method("moco_v2", "digits")
  config.resolved = {"train_images": 1437}
  with config.ignore_type():
    config.update_from_flattened_dict({"epochs": 4.0, **dict(changed)})
  return config


@pytest.mark.parametrize("key", _FREE)
def test_what_neither_model_nor_order_depends_on_may_change(key):
  old, new = _config(), _config({key: _FREE[key]})
  assert len(changes.difference(old, new)) == 1
  changes.check_same(old, new, "runs/x")


@pytest.mark.parametrize("key", _FIXED)
def test_other_entries_must_be_set_back(key):
  old, new = _config(), _config({key: _FIXED[key]})
  ((changed, before, now),) = changes.difference(old, new)
  with pytest.raises(ValueError) as error:
    changes.check_same(old, new, "runs/x")
  assert changed == key and str(error.value) == (
      "runs/x holds a run with another model or order of the data:\n"
      f"  config.{key}: {before!r} in the run, {now!r} now\n"
      "Set them back to resume it, or give another --workdir."
  )


def test_every_refused_entry_is_listed_and_no_other():
  old, new = _config(), _config({"seed": 1, "net.width": 8, "epochs": 9.0})
  with pytest.raises(ValueError) as error:
    changes.check_same(old, new, "runs/x")
  assert [line.strip() for line in str(error.value).splitlines()[1:-1]] == [
      "config.net.width: 32 in the run, 8 now",
      "config.seed: 0 in the run, 1 now",
  ]


def _without_momentum(config):
  with config.unlocked():
    del config.optimizer.momentum
  return config


def test_an_entry_that_one_config_lacks_is_of_another_version():
  old, new = _without_momentum(_config()), _config()
  for one, other in ((old, new), (new, old)):
    with pytest.raises(ValueError, match="another version(.|\n)*Finish it"):
      changes.check_same(one, other, "runs/x")


def test_other_entries_of_another_optimizer_are_of_no_other_version():
  old, new = _config(), _without_momentum(_config({"optimizer.name": "adamw"}))
  with pytest.raises(ValueError, match="another model (.|\n)*Set them back"):
    changes.check_same(old, new, "runs/x")


def test_other_pictures_are_named_only_if_nothing_else_differs():
  old, new = _config(), _config({"resolved.train_images": 1400})
  with pytest.raises(ValueError, match=r"\(1437 training .*, 1400 now\)"):
    changes.check_same(old, new, "runs/x")
  new.seed = 1
  with pytest.raises(ValueError, match="config.resolved.train_images: 1437 in"):
    changes.check_same(old, new, "runs/x")


def _check_steps(step, old, new):
  changes.check_steps(old, new, "runs/x", step=step, steps_per_epoch=_STEPS)


@pytest.mark.parametrize("step", [0, 22, 43])
def test_an_unfinished_run_may_change_how_it_is_trained(step):
  _check_steps(step, _config(), _config({"optimizer.learning_rate": 1.0}))


def test_a_finished_run_may_be_evaluated_again_or_trained_longer():
  old = _config()
  _check_steps(44, old, _config())
  _check_steps(44, old, _config({"eval.k": 3}))
  _check_steps(
      44, old, _config({"epochs": 5.0, "optimizer.learning_rate": 1.0})
  )


@pytest.mark.parametrize(
    "step,epochs,refused",
    [
        (44, 3.9, True),  # 43 steps.
        (44, 3.96, False),  # 43.56, rounded to 44.
        (33, 2.0, True),
        (33, 3.0, True),  # The end of a schedule that is not the run's.
        (33, 4.0, False),
        (32, 3.0, False),  # One step is left.
    ],
)
def test_fewer_steps_than_were_taken_are_refused(step, epochs, refused):
  old, new = _config(), _config({"epochs": epochs})
  if not refused:
    _check_steps(step, old, new)
    return
  with pytest.raises(ValueError, match="Give config.epochs=4 as before"):
    _check_steps(step, old, new)


def test_the_number_of_steps_is_named():
  with pytest.raises(
      ValueError,
      match=r"trained for 3 epochs \(33 steps\), but config.epochs=2 asks for"
      " only 22 steps",
  ):
    _check_steps(33, _config(), _config({"epochs": 2.0}))
  with pytest.raises(ValueError, match=r"all of config.epochs=3, .*\(44 steps"):
    _check_steps(33, _config(), _config({"epochs": 3.0}))


@pytest.mark.parametrize(
    "entry,said",
    [
        ({"optimizer.learning_rate": 0.5}, "learning rate 0.03 -> 0.5"),
        ({"optimizer.weight_decay": 0.5}, "weight decay 0.0005 -> 0.5"),
        (
            {"optimizer.schedule.warmup_epochs": 1.0},
            "schedule warmup epochs 0 -> 1",
        ),
        ({"net.attention": "einsum"}, "net attention auto -> einsum"),
        ({"precision": "bfloat16"}, "precision auto -> bfloat16"),
    ],
)
def test_a_finished_run_is_not_said_to_be_trained_otherwise(entry, said):
  with pytest.raises(ValueError, match=f"be taken with {said}. Set that back"):
    _check_steps(44, _config(), _config(entry))


def test_a_finished_run_of_another_version_can_be_evaluated():
  _check_steps(44, _without_momentum(_config()), _config())
  _check_steps(44, _config(), _without_momentum(_config()))


def _describe(step, old, new):
  return changes.describe(old, new, step=step, steps_per_epoch=_STEPS)


def test_nothing_is_described_if_nothing_changed():
  assert not _describe(22, _config(), _config())


def test_a_longer_schedule_is_described():
  lines = _describe(22, _config(), _config({"epochs": 8.0}))
  # Cosines of 0.03: at a half, and at a quarter.
  assert lines == [
      "changed since then: epochs 4 -> 8",
      (
          "the schedule now runs over 8 epochs: at step 22 the learning rate is"
          " 0.0256 instead of 0.015"
      ),
  ]


def test_a_schedule_counts_updates():
  old, new = (
      _config({
          "accumulate_steps": 2,
          "epochs": epochs,
          "optimizer.schedule.end": 0.0,
      })
      for epochs in (4.0, 8.0)
  )
  # Step 22 is update 11 of 22, and of 44.
  _, line = _describe(22, old, new)
  assert line.endswith("0.0512 instead of 0.03")


def test_equal_schedules_and_finished_ones_are_not_described():
  old = _config()
  assert _describe(22, old, _config({"eval.k": 3})) == [
      "changed since then: eval k 20 -> 3"
  ]
  assert _describe(0, old, _config({"epochs": 8.0})) == [
      "changed since then: epochs 4 -> 8"
  ]
  constant = _config({"optimizer.schedule.name": "constant"})
  assert len(_describe(43, old, constant)) == 2
  assert len(_describe(44, old, constant)) == 1
