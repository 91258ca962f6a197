"""One torch thread: models this small are slower on two, and much slower beside other work."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
