"""The benchmark command measures what it says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from instformer_ros.cli import main
from instformer_ros.model.crops import CropClip
from instformer_ros.model.variants import Variant
from instformer_ros.preprocess import network_input
from instformer_ros.speed import subjects
from instformer_ros.speed.ceiling import Traffic, matrix_rate, memory_bandwidth, work
from instformer_ros.speed.peers import compare
from instformer_ros.speed.timing import Series, interleave
from instformer_ros.structures import InstformerError

CPU = torch.device("cpu")


def test_contenders_take_turns() -> None:
    calls: list[str] = []
    interleave({name: lambda name=name: calls.append(name) for name in "ab"}, 3, CPU, warm_up=1)  # type: ignore[misc]
    assert "".join(calls) == "abbaabba", "warm-up, then three rounds, every other one backwards"


def test_a_sleep_costs_time_but_no_processor() -> None:
    series = interleave({"sleep": lambda: time.sleep(0.02), "nothing": lambda: None}, 3, CPU)
    summary = series["sleep"].summary()
    assert summary["median_ms"] >= 20
    assert summary["cpu_median_ms"] < 10
    assert summary["per_second"] == pytest.approx(1000 / summary["median_ms"])
    assert summary["runs"] == 3


def test_a_ratio_is_of_pairs() -> None:
    ours, theirs = Series([1.0, 2.0, 30.0], [1.0, 1.0, 1.0]), Series([2.0, 4.0, 60.0], [4.0, 4.0, 4.0])
    ratio = ours.ratio(theirs)
    assert ratio["wall"] == ratio["wall_q25"] == ratio["wall_q75"] == 0.5
    assert ratio["cpu"] == 0.25


@pytest.mark.parametrize("peer", ["eager", "crops"])
def test_peers(peer: str) -> None:
    subject = subjects.load("toyvis", CPU, "fp32", short_side=64)
    comparison = compare(subject, peer, subjects.frames(96, 64, 1)[0], rounds=2)
    assert comparison["ours"]["runs"] == comparison["theirs"]["runs"] == 2
    assert comparison["ratio"]["wall"] > 0


def test_transformers_has_no_network_of_the_embedded_size() -> None:
    subject = subjects.load("toyvis", CPU, "fp32", short_side=64)
    with pytest.raises(InstformerError, match="no network of the sizes of toyvis; use --model r50-vitb32"):
        compare(subject, "transformers", subjects.frames(96, 64, 1)[0], rounds=1)


def test_a_peer_that_does_not_work_here_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: object) -> object:
        def call() -> None:
            raise RuntimeError("no compiler\nand much more")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    arguments = ["--size", "96x64", "--short", "64", "--rounds", "1", "--only", "--against", "compiled", "eager"]
    assert main(["bench", *arguments, "--json", str(tmp_path / "a.json")]) == 0
    result = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["against"]
    assert "no compiler" in result["compiled"]["not_measured"]
    assert "and much more" not in result["compiled"]["not_measured"]
    assert result["eager"]["ratio"]["wall"] > 0
    assert "against compiled: not measured: torch.compile does not work here" in capsys.readouterr().out


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        arguments = ["--size", "96x64", "--short", "64", "--rounds", "2", "--threads", "1", "--sweep", "instances"]
        assert main(["bench", *arguments, "--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]) == 0
    finally:
        torch.set_num_threads(threads)
    result = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    wanted = ["decode", "preprocess", "backbone", "pixel decoder", "mask decoder", "instclip", "association", "masks"]
    assert list(result["stages"])[:8] == wanted
    assert list(result["sweeps"]["instances"]) == ["1", "10", "30", "100", "300"]
    largest = result["ceilings"]["largest_stages"]
    assert len(largest) == 3 and set(largest) < {"backbone", "pixel decoder", "mask decoder", "instclip"}
    for stage in largest:
        assert 0 < result["stages"][stage]["share_of_matrix_rate"] < 2
        assert 0 < result["stages"][stage]["share_of_bandwidth"] < 5, "more than all of it: a cache is faster"
        assert result["stages"][stage]["gflop"] > 0.001 and result["stages"][stage]["gbyte"] > 0.0001
    assert result["environment"]["threads"] == 1
    assert result["frames"]["frame"]["runs"] == 2
    assert result["peak_memory_bytes"] > 1e8
    assert (tmp_path / "a.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "of bandwidth" in printed and all(stage in printed.split("largest", 1)[1] for stage in largest)


@torch.no_grad()
def test_operations_of_every_stage_are_counted() -> None:
    subject = subjects.load("toyvis", CPU, "fp32")
    images = network_input(subjects.frames(256, 192, 1), subject.config, CPU)
    clip, counts = subject.network.instclip, work(subject, images)
    width, layers, heads = clip.register_token.shape[0], len(clip.blocks), clip.blocks[0].attn.num_heads
    hidden, queries = clip.blocks[0].mlp.c_fc.out_features, subject.config.proposals.queries
    frame = 1 + (192 // clip.patch) * (256 // clip.patch)
    tokens, last = frame + queries, queries  # in the last layer the frame only gives keys and values
    products = (layers * 3 * tokens - frame) * width**2  # queries, keys, values
    products += ((layers - 1) * tokens + last) * (width**2 + 2 * width * hidden)  # output, feed-forward
    attention = (layers - 1) * 2 * frame * (frame - 1 + subject.config.instclip.register) * width
    attention += layers * 2 * queries * (frame - 1 + subject.config.instclip.register_visible) * width
    ends = (frame - 1) * 3 * clip.patch**2 * width + queries * width * clip.embed_dim
    assert counts["instclip"][0] == 2 * (products + attention + ends), (width, layers, heads)


def test_bytes_are_of_arguments_and_results() -> None:
    layer, x = torch.nn.Linear(3, 5), torch.ones(7, 3)
    cases: list[tuple[Callable[[], object], int]] = [
        (lambda: layer(x), 4 * (5 * 3 + 5 + 7 * 3 + 7 * 5)),  # parameters count as what they are: arguments
        (lambda: x.t()[1:].unsqueeze(0).expand(4, 2, 7), 0),
        (lambda: x[:, :1].expand(7, 100).sum(), 4 * (7 + 1)),  # a repeated element is one
        (lambda: torch.empty(100), 0),
        (lambda: x.t().contiguous(), 4 * 2 * 21),
        (lambda: x.contiguous(), 0),
        (lambda: x.bfloat16(), (4 + 2) * 21),
        (lambda: x.mul_(2), 4 * 2 * 21),
        (lambda: x.copy_(torch.empty(3)), 4 * (3 + 21)),
        (lambda: x.fill_(1), 4 * 21),
    ]
    for number, (run, expected) in enumerate(cases):
        with torch.no_grad(), Traffic() as traffic:
            run()
        assert traffic.bytes == expected, number


def test_ceilings_are_rates_of_this_machine() -> None:
    assert 1e8 < memory_bandwidth(CPU, floats=2**20) < 1e13
    assert 1e8 < matrix_rate(CPU, torch.float32) < 1e14


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "big"], "'big': use WIDTHxHEIGHT"),
        (["--model", "nothing"], "nothing"),
        (["--precision", "fp8"], "precision 'fp8' is unknown"),
        (["--device", "tpu"], "device 'tpu'"),
        (["--only", "--plot", "x.png"], "--plot draws sweeps"),
        (["--json", "/dev/null/x.json"], "/dev/null/x.json: cannot be written"),
    ],
)
def test_bad_options_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["bench", *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    error = capsys.readouterr().err
    assert code == 2
    assert said in error
    assert error.count("\n") == 1


def test_a_baseline_is_measured_in_the_place_of_the_model() -> None:
    variant = Variant(classifier="masked-crops", association="query", rollout="none")
    subject = subjects.load("toyvis", torch.device("cpu"), "fp32", variant=variant)
    assert isinstance(subject.network.instclip, CropClip)
    assert subject.config.rollout.association == "query"
    assert subject.engine().step({"": subjects.frames(64, 48, 1)[0]})[""].frame_index == 0
