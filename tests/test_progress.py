"""What the screen shows, on a terminal and in a log file."""

import subprocess
import sys
import types

import pytest

import command
from jssl import progress

_STAGES = """
import time
from jssl import progress
with progress.stage("evaluating (1 of 3: trained)"):
  time.sleep(1.5)
steps = progress.Progress(step=0, total=5)
with steps.stage("compiling"):
  time.sleep(1.5)
steps.advance(5)
steps.log("done")
steps.close()
"""


def test_a_stage_is_a_moving_line_on_a_terminal():
  code, output = command.on_terminal(["-c", _STAGES])
  assert code == 0
  drawn = output.split("\r")
  assert "evaluating (1 of 3: trained): 00:01" in drawn  # The clock moves.
  assert ": 00:00" not in drawn  # Without a text.
  moving = [x for x in drawn if "0/5" in x and "compiling" in x]
  assert {x.partition("[")[2][:5] for x in moving} >= {"00:00", "00:01"}
  # Neither stays: the one is wiped out, the other makes room for steps.
  *_, last = (x for x in output.splitlines() if "5/5" in x)
  assert "compiling" not in last.rpartition("\r")[2]
  assert "evaluating" not in output.splitlines()[-1]


@pytest.mark.slow
def test_a_stage_is_one_line_of_a_log_file():
  done = subprocess.run(
      [sys.executable, "-c", _STAGES], text=True, capture_output=True
  )
  expected = ["evaluating (1 of 3: trained)", "compiling", "done"]
  assert done.stderr.splitlines() == expected
  assert "\r" not in done.stderr and not done.stdout


def test_a_stage_ends_with_its_error(capfd):
  with pytest.raises(ValueError, match="wrong"):
    with progress.stage("evaluating"):
      raise ValueError("wrong")
  assert capfd.readouterr().err == "evaluating\n"


@pytest.mark.parametrize("kernel", [True, False])
def test_a_bar_moves_in_a_kernel_and_not_where_ipykernel_is_only_imported(
    kernel, monkeypatch, capfd
):
  import ipykernel  # As what runs notebooks does.
  import IPython

  assert "ipykernel" in sys.modules and ipykernel
  shell = types.SimpleNamespace(kernel=object() if kernel else None)
  monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
  with progress.stage("evaluating"):
    pass
  written = capfd.readouterr().err
  assert written.startswith("\r") if kernel else written == "evaluating\n"
