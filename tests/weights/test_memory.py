"""What loading a full-size file costs (ru_maxrss of a fresh process)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_full_size_file_loads_in_its_own_size_and_half_a_gigabyte(tmp_path):
    path = tmp_path / "sd15.safetensors"
    subprocess.run([sys.executable, ROOT / "scripts" / "make_random_checkpoint.py", path], check=True)
    assert path.stat().st_size == pytest.approx(2 * 1_066_235_307, rel=1e-3)

    def cost(dtype: str) -> tuple[int, int]:
        program = [sys.executable, Path(__file__).with_name("load_full.py"), path, dtype]
        weights, peak = subprocess.run(program, check=True, capture_output=True, text=True).stdout.split()
        return int(weights), int(peak)

    weights, peak = cost("bfloat16")                # converted through one buffer
    assert weights == 2 * 1_066_235_307
    assert weights < peak <= weights + 0.5e9
    weights, peak = cost("float16")                 # mapped: nothing resident until used
    assert peak <= 0.5e9
