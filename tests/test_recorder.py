"""Metrics survive a kill and are never written twice."""

import json

import pytest

from jssl.recorder import MetricsLog, read_metrics


def test_rows_are_on_the_disk_at_once(tmp_path):
  log = MetricsLog(tmp_path, step=0)
  log.write({"step": 1, "loss": 2.5})
  assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.5}]
  log.close()


def test_rows_after_the_checkpoint_are_dropped_on_resume(tmp_path):
  log = MetricsLog(tmp_path, step=0)
  for step in (1, 2, 3):
    log.write({"step": step, "loss": 1.0})
  log.close()
  log = MetricsLog(tmp_path, step=2)
  assert [row["step"] for row in log.rows] == [1, 2]
  log.write({"step": 3, "loss": 4.0})
  log.close()
  assert read_metrics(tmp_path) == [
      {"step": 1, "loss": 1.0},
      {"step": 2, "loss": 1.0},
      {"step": 3, "loss": 4.0},
  ]


def test_a_line_cut_short_by_a_kill_is_ignored(tmp_path):
  whole = json.dumps({"step": 1, "loss": 1.0})
  (tmp_path / "metrics.jsonl").write_text(whole + "\n" + whole[:9])
  assert read_metrics(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_values_that_are_not_finite_are_refused(tmp_path):
  log = MetricsLog(tmp_path, step=0)
  with pytest.raises(ValueError, match="JSON"):
    log.write({"step": 1, "loss": float("nan")})
  log.close()
