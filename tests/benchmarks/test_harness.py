"""The runner on contenders that cost nothing: who is timed when, the arithmetic, the files."""

import argparse
import json
import sys
from pathlib import Path

import pytest

MATMUL_S = 0.5


class FakeWorker:
    """A worker's record, without a process.  The first call is the warm-up and counts nowhere."""

    def __init__(self, name: str, times_s: list[float]):
        self.name, self.cold_s = name, 9.0
        self.answers = [{"time_s": 100.0, "peak_mib": 1.0, "built_mib": 512.0}]
        self.answers += [{"time_s": t, "peak_mib": 2048.0} for t in times_s]


def test_race_times_contenders_in_turn(tmp_path):
    import harness
    log = tmp_path / "log"
    racing = [harness.Contender(name, "fake:logger", {"path": str(log), "name": name}) for name in "AB"]
    workers, left_out = harness.race(racing, 3, 1)
    assert log.read_text() == "AB" + 3 * "AB"           # each called once to warm up, then interleaved
    assert not left_out
    for worker in workers:
        assert len(worker.answers) == 4 and worker.process.returncode == 0
        assert all(answer["figure"] == 42 and answer["time_s"] >= 0.1 for answer in worker.answers)
        assert worker.cold_s > worker.answers[0]["time_s"]
        assert 1 < worker.answers[0]["built_mib"] < 1000            # Python alone
        assert worker.answers[0]["built_mib"] <= worker.answers[0]["peak_mib"]


def test_race_says_why_a_contender_is_left_out():
    import harness
    racing = [harness.Contender("failing", "fake:failing"), harness.Contender("dying", "fake:dying"),
              harness.Contender("sleeper", "fake:sleeper", {"time_s": 0.001})]
    workers, left_out = harness.race(racing, 1, 1)
    assert [worker.name for worker in workers] == ["sleeper"]
    assert left_out["failing"] == "ImportError: no such library in /some/folder/lib"
    assert "exit code 3" in left_out["dying"]
    assert 0.001 <= workers[0].answers[1]["time_s"] < 0.1        # the mean of several calls, not their sum


def test_compare_refuses_a_race_of_nobody():
    import harness
    args = argparse.Namespace(repeats=1, threads=1)
    with pytest.raises(harness.Unavailable, match="no such library"):
        harness.compare("none", [harness.Contender("failing", "fake:failing")], args)


def test_rows_hold_medians_ratios_and_rates():
    import harness
    workers = [FakeWorker("ours", [3.0, 1.0, 2.0]), FakeWorker("peer", [8.0, 5.0, 4.0]),
               FakeWorker("matmul", [2 * MATMUL_S, MATMUL_S])]
    ours, peer = harness.rows(workers, flops=harness.MATMUL_FLOPS)
    assert (ours["median_s"], ours["min_s"], ours["max_s"], ours["ratio"]) == (2, 1, 3, 1)
    assert (peer["median_s"], peer["ratio"], peer["cold_s"]) == (5, 2.5, 9)
    assert (peer["built_mib"], peer["peak_mib"]) == (512, 2048)
    assert peer["gflops"] == pytest.approx(2 * 4096**3 / 5e9)
    assert peer["of_peak"] == pytest.approx(MATMUL_S / 5)        # the same work at the matmul's best time


def test_report_writes_no_absolute_path(tmp_path, monkeypatch, capsys):
    import report
    monkeypatch.setattr(sys, "argv", ["/some/folder/benchmarks/bench.py", "--cache", "/some/folder/cache",
                                      "--ckpt=/some/folder/model.ckpt"])
    rows = [{"name": "ours", "median_s": 1.25, "ratio": 1.0}, {"name": "peer", "median_s": 2.5, "ratio": 2.0}]
    left_out = {"third": "OSError: '/some/folder/lib.so' is missing (/some/folder)"}
    report.write("test", [{"title": "A table", "rows": rows, "left_out": left_out}], tmp_path)
    text, data = (tmp_path / "test.md").read_text(), json.loads((tmp_path / "test.json").read_text())
    assert "| peer | 2.5 | 2.00 |" in text and "lib.so" in text
    assert data["command"] == "python benchmarks/bench.py --cache cache --ckpt=model.ckpt"
    assert data["tables"][0]["rows"] == rows
    for written in (text, json.dumps(data)):
        assert "/some" not in written and str(Path.home()) not in written and str(Path(__file__).parent) not in written
    assert capsys.readouterr().out.strip() == text.strip()


@pytest.mark.parametrize("text", ["980 GFLOP/s", "variance 1 / fan-in", "python benchmarks/bench_unet.py", "a/b"])
def test_without_folders_leaves_other_slashes(text):
    import report
    assert report.without_folders(text) == text
