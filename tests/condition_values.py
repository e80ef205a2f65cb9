"""Values of the conditions of tests/sampling's `setup`."""

import numpy as np

BACH, HAYDN, LISZT = ({"composer": np.eye(4, dtype=np.float16)[[number]]} for number in (1, 2, 3))
SAD = {"mood": np.eye(3, dtype=np.float16)[[2]]}
SLOWLY = {"words": np.array([[1, 0, 0, 0, 0], [0, 0.6, 0.8, 0, 0], [0, 0, 0, 0, 0]], np.float16)}
SOFTLY = {"words": np.array([[1, 0, 0, 0, 0], [0, -1, 0, 0, 0], [0, 0, 0, 0.6, -0.8]], np.float16)}
