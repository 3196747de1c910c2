"""Relative position: classify on which side of the central tile another lies.

  python -m jssl.train --config=relative_position:digits --workdir=runs/position

digits, 9 epochs on two CPU cores: 69 s; tuned for such short runs.

The recipe is that of jigsaw, for all data sets. imagenet2012 follows the code
of Kolesnikov et al. (2019), except that tiles of 64 pixels come from images of
225, there of 255 (Doersch et al., 2015, take tiles of 96 with gaps of 48).
"""

import functools

from jssl.config import from_table, of_method

get_config = from_table(
    {
        "default": {
            "method.name": "relative_position",
            "method.permutations": None,
            "method.puzzles": None,
        },
    },
    start=functools.partial(of_method, "jigsaw"),
)
