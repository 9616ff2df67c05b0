"""Comparisons that rounding could upset, on the kernels and threads of other processors, each in its own Python.

torch and oneDNN choose their kernels when they are loaded. What a processor can't do is left out by them silently.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SENSITIVE = (
    "tests/oracle/test_text_training_parity.py::"
    "test_loss_gradients_and_factors_of_text_encoders_are_those_of_peft[SD1.5-captions of different lengths]",
    "tests/oracle/test_training_parity.py::test_loss_gradients_and_factors_are_those_of_peft[SD1.5-v-two resolutions]",
    "tests/oracle/test_merging.py",
    "tests/nodes/apply/test_moving_strengths.py::test_a_strength_that_jumps_is_the_same_as_two_runs_with_fixed_ones",
    "tests/lora_core/adapters/test_odd_shapes.py",
)
PROCESSORS: Mapping[str, Mapping[str, str]] = {
    "no vector kernels, 1 thread": {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"},
    "SSE 4.1 in oneDNN, 2 threads": {"ONEDNN_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "2"},
    "AVX2, 1 thread": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"},
}


@pytest.mark.once
@pytest.mark.parametrize("processor", PROCESSORS)
def test_sensitive_comparisons_hold_on_other_processors(processor: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", *SENSITIVE]
    answer = subprocess.run(command, cwd=ROOT, env={**kept, **PROCESSORS[processor]}, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout[-4000:]
