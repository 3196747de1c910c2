"""The grid of reconstructions."""

import numpy as np
from PIL import Image
import pytest

from jssl.report import figures, thumbnails
from jssl.report.views import Reconstruction


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.filterwarnings("error")  # Of glyphs that a font lacks.
def test_gray_levels_of_a_reconstruction_grid_are_exact(channels, tmp_path):
  levels = (0.2, 0.4, 0.6)
  row = Reconstruction(*(
      thumbnails.make(np.full((8, 8, channels), level), "") for level in levels
  ))
  path = tmp_path / "grid.png"
  figures.reconstruction_grid([row] * 4, path, title="folder:a$b_$ 照片")
  pixels = np.asarray(Image.open(path).convert("L"), np.int32)
  for level in levels:
    near = np.abs(pixels - round(255 * level)) <= 1
    assert np.mean(near) > 0.15  # A row of three, without the margins.
  rows = [
      np.mean(np.nonzero(np.abs(pixels - round(255 * x)) <= 1)[0])
      for x in levels
  ]
  assert rows == sorted(rows)
