"""A run's log of metrics: `metrics.jsonl` and TensorBoard events."""

import json
import pathlib
from typing import Any

from jssl import files


class MetricsLog:
  """Rows of metrics, in a file of JSON lines and as TensorBoard events.

  A row is handed to the system when `write` returns, so it survives a killed
  process. A resumed run drops the rows after its checkpoint, which it is about
  to write again.

  Attributes:
    rows: All rows so far, dicts with "step".
  """

  def __init__(self, workdir: str, *, step: int):
    """Opens the log of a run.

    Args:
      workdir: The run's folder.
      step: Number of steps taken; later rows are dropped.
    """
    from tensorboardX import SummaryWriter  # Slow to import.

    self._path = pathlib.Path(workdir) / "metrics.jsonl"
    self.rows = [row for row in read(workdir) if row["step"] <= step]
    with files.atomic(self._path) as temporary:
      temporary.write_text("".join(map(_line, self.rows)))
    self._file = self._path.open("a")
    self._events = SummaryWriter(str(workdir), purge_step=step + 1)

  def write(self, row: dict[str, Any]) -> None:
    """Appends a row of finite numbers; "step" must be among them."""
    line = _line(row)
    try:
      self._file.write(line)
      self._file.flush()
    except OSError as error:
      raise OSError(
          f"{self._path} could not be written: {error}. Checkpoints are intact;"
          " free space, and run the same command again."
      ) from error
    self.rows.append(row)
    for name, value in row.items():
      if name != "step":
        self._events.add_scalar(name, value, row["step"])
    self._events.flush()

  def close(self) -> None:
    """Closes the files."""
    self._file.close()
    self._events.close()


def read(workdir: str) -> list[dict[str, Any]]:
  """Returns the rows of `WORKDIR/metrics.jsonl`, [] if there is none.

  An incomplete last line, as a kill may leave it, is ignored.
  """
  path = pathlib.Path(workdir) / "metrics.jsonl"
  if not path.exists():
    return []
  whole = path.read_text().rpartition("\n")[0]
  return [json.loads(line) for line in whole.splitlines()]


def _line(row):
  return json.dumps(row, allow_nan=False) + "\n"
