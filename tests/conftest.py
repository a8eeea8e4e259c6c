"""What every test shares: one thread, because the tests themselves run in parallel, and the helpers package."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
