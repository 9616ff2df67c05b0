"""A training in a process of its own, that says each step and can be killed. Arguments: file of the state, kind."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import conftest  # noqa: F401  makes lora_pack importable
import torch
from fakes import long_trainer

if __name__ == "__main__":
    torch.set_num_threads(1)
    for report in long_trainer(Path(sys.argv[1]), sys.argv[2]).run():
        print(report.step, flush=True)
