"""What every test shares: one thread, because the tests themselves run in parallel, and the helpers package.

No test finds the prompts of another: only those of the cache itself keep any.
"""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
os.environ["COGWORKS_PROMPT_CACHE"] = "0"
