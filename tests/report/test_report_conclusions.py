"""The result of a run in one sentence."""

import pytest

from jssl.report import conclusions


def _summary(knn, untrained, *, pixels=0.978, images=360, rank=38.3):
  return {
      "knn": knn,
      "rank": rank,
      "images": {"train": 1437, "test": images},
      "baselines": {
          "untrained": {"knn": untrained, "rank": 8.6},
          "raw_pixels": {"knn": pixels, "rank": 22.5},
      },
  }


def test_help_is_reported_with_all_baselines():
  assert conclusions.finished(_summary(0.9752, 0.9281), classes=10) == (
      "Training helped: kNN accuracy on held-out images is 0.975, compared with"
      " 0.928 for the untrained net, 0.978 for raw pixels and 0.100 for chance."
  )


def test_harm_is_reported():
  assert conclusions.finished(_summary(0.6, 0.9281), classes=4) == (
      "Training hurt: kNN accuracy on held-out images is 0.600, compared with"
      " 0.928 for the untrained net, 0.978 for raw pixels and 0.250 for chance."
  )


@pytest.mark.parametrize(
    ("knn", "untrained", "images", "start"),
    [
        # Two standard errors of 0.5 against 0.5 of 200 images are 0.1.
        (0.59, 0.5, 200, "Training made no clear difference"),
        (0.61, 0.5, 200, "Training helped"),
        (0.41, 0.5, 200, "Training made no clear difference"),
        (0.39, 0.5, 200, "Training hurt"),
        (0.59, 0.5, 2000, "Training helped"),
        (0.5, 0.5, 10**9, "Training made no clear difference"),
        (1.0, 1.0, 10, "Training made no clear difference"),
    ],
)
def test_a_difference_counts_if_it_exceeds_noise(knn, untrained, images, start):
  text = conclusions.finished(
      _summary(knn, untrained, images=images), classes=2
  )
  assert text.startswith(
      f"{start}: kNN accuracy on held-out images is {knn:.3f},"
  )


@pytest.mark.parametrize(
    ("images", "start"),
    [
        (1, "Trained; 1 held-out image cannot"),
        (9, "Trained; 9 held-out images"),
    ],
)
@pytest.mark.parametrize("knn", [1.0, None])
def test_a_few_images_show_neither_help_nor_collapse(images, start, knn):
  summary = _summary(knn, 0.0, images=images, rank=1.0)
  text = conclusions.finished(summary, classes=2)
  assert text.startswith(start) and "hold out 10 or more" in text


def test_a_summary_without_the_number_of_images_is_read():
  summary = _summary(0.51, 0.5)
  del summary["images"]
  text = conclusions.finished(summary, classes=2)
  assert text.startswith("Training helped")


def test_without_labels_the_rank_is_reported():
  summary = _summary(None, None, pixels=None)
  assert conclusions.finished(summary, classes=0) == (
      "Trained; there are no labels, so there is no kNN accuracy. The effective"
      " rank of the features is 38.3, compared with 8.6 for the untrained net"
      " and 22.5 for raw pixels."
  )


def test_with_one_class_there_is_no_knn_accuracy():
  text = conclusions.finished(_summary(1.0, 1.0, pixels=1.0), classes=1)
  assert text.startswith("Trained; there is only one class, so there is no")
  assert "1.000" not in text


@pytest.mark.parametrize("knn,classes", [(0.9, 10), (None, 0)])
def test_collapse_is_reported(knn, classes):
  summary = _summary(knn, 0.5, rank=1.1)
  text = conclusions.finished(summary, classes=classes)
  assert text.startswith("The features have collapsed")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [],
            "Not finished, at step 4 of 33; there was no quick evaluation yet.",
        ),
        (
            [{"epoch": 0.2, "loss": 3.0}, {"epoch": 0.25, "rank": 7.04}],
            (
                "Not finished, at step 4 of 33; after epoch 0.25 the effective"
                " rank of the features was 7.0."
            ),
        ),
        (
            [
                {"epoch": 0.1, "rank": 5.0, "knn": 0.5},
                {"epoch": 0.25, "rank": 7.04, "knn": 0.91},
                {"epoch": 0.3, "loss": 3.0},
            ],
            (
                "Not finished, at step 4 of 33; after epoch 0.25 kNN accuracy"
                " on held-out images was 0.910, and the effective rank of the"
                " features was 7.0."
            ),
        ),
    ],
)
def test_the_progress_of_an_unfinished_run_is_reported(rows, expected):
  assert conclusions.unfinished(4, 33, rows) == expected


def test_a_run_whose_evaluation_was_interrupted_is_not_called_unfinished():
  text = conclusions.unfinished(1033, 1033, [])
  assert text.startswith("Trained for 1,033 steps, but not evaluated yet;")
