"""Two runs: what is called faster or slower is, what is not is within noise, and a gate fails for it and for nothing else."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_samples
from conftest import Outcome
from pydantic import TypeAdapter

from iresnet_export.errors import InputError
from iresnet_export.reporting.comparison import Comparison, compare, machine_differences, ratio_of_medians
from iresnet_export.reporting.report import ReportOptions, make_report, share_from_text
from iresnet_export.reporting.report_files import read_reports
from iresnet_export.reporting.schemas import Environment

Run = Callable[..., Outcome]
Write = Callable[..., list[Path]]
Document = dict[str, Any]


def run_of(change: float, seed: int, turns: int = 24) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """A run whose turns drift together: samples of one turn share more of their error than they have of their own."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(0, 0.02, (turns, 1))
    return list(10 * change * np.exp(shared + np.abs(generator.normal(0, 0.01, (turns, 5)))))


@pytest.mark.parametrize(("change", "least", "most"), [(1.0, 0.0, 0.08), (1.01, 0.2, 0.75), (1.05, 0.99, 1.0), (0.95, 0.99, 1.0)])
def test_verdicts_are_right_at_their_stated_rate(change: float, least: float, most: float) -> None:
    """No difference is called one in at most 5 % of the runs (and what chance adds to 120 of them); 5 % always is."""
    called = covered = 0
    for seed in range(120):
        ratio, (low, high) = ratio_of_medians(run_of(1, 2 * seed), run_of(change, 2 * seed + 1), seed)
        called += low > 1 if change >= 1 else high < 1
        called += high < 1 if change == 1 else 0
        covered += low <= change <= high
        assert low <= ratio <= high
    assert least <= called / 120 <= most
    assert covered / 120 >= 0.92


def test_whole_turns_are_resampled() -> None:
    """Samples of one turn are no independent witnesses: were they taken as such, noise would be called a change."""
    false = 0
    for seed in range(100):
        old, new = ([turn[:1].repeat(50) for turn in run_of(1, number, turns=12)] for number in (2 * seed, 2 * seed + 1))
        _, (low, high) = ratio_of_medians(old, new)
        false += not low <= 1 <= high
    assert false <= 10


def test_turns_of_different_lengths_count_as_they_are() -> None:
    lengths = np.random.default_rng(0).integers(3, 9, 24)
    uneven = [np.concatenate([turn, turn])[:length] for turn, length in zip(run_of(1.2, 5), lengths, strict=True)]
    ratio, (low, high) = ratio_of_medians(run_of(1, 4), uneven)
    assert ratio == pytest.approx(np.median(np.concatenate(uneven)) / np.median(np.concatenate(run_of(1, 4))))
    assert 1.1 < low < ratio < high < 1.3


def slowed(document: Document, index: int, factor: float) -> Document:
    found = copy.deepcopy(document)
    one = found["results"][index]
    one["samples"] = [[factor * value for value in turn] for turn in report_samples.samples(one["latency_ms"]["p50"], seed=99)]
    return found


def compared(write: Write, old: Document, new: Document) -> Comparison:
    return compare(read_reports(write(old=old, new=new)))


def test_each_candidate_is_found_again(write: Write) -> None:
    old = report_samples.bench()
    new = slowed(slowed(old, 2, 1.1), 5, 0.9)
    new["results"][0]["artifact"] = "iresnet50-ffffffff"  # trained anew: the same network, other weights
    comparison = compared(write, old, new)
    changes = [one.change for one in comparison.candidates]
    assert changes == ["within noise", "within noise", "slower", "within noise", "within noise", "faster", "within noise"]
    slower, faster = comparison.candidates[2], comparison.candidates[5]
    assert slower.name == "iresnet50.onnx by ONNX Runtime, batch 1"
    assert slower.ratio == pytest.approx(1.1, rel=0.02)
    assert faster.ratio == pytest.approx(0.9, rel=0.02)
    assert comparison.only_old == comparison.only_new == ()
    assert comparison.candidates[0].ratio == 1


def test_what_only_one_run_holds_is_said(write: Write) -> None:
    old, new = report_samples.bench(), report_samples.bench()
    del new["results"][1]
    del old["results"][4]
    comparison = compared(write, old, new)
    assert comparison.only_old == ("iresnet50.ts by TorchScript, batch 1",)
    assert comparison.only_new == ("iresnet50-bf16.onnx by OpenVINO, batch 1",)


def test_without_samples_there_is_no_verdict(write: Write) -> None:
    old, new = report_samples.bench(), report_samples.bench()
    old["results"][1]["samples"] = None
    new["results"][2]["samples"] = new["results"][2]["samples"][:3]
    new["results"][3] |= {"status": "unstable"}
    comparison = compared(write, old, new)
    assert [one.change for one in comparison.candidates[1:4]] == ["not compared"] * 3
    reasons = [one.reason or "" for one in comparison.candidates[1:4]]
    assert "fewer than 4 turns" in reasons[0] + reasons[1]
    assert "unstable" in reasons[2]


def test_servers_and_cold_starts_are_compared_too(write: Write) -> None:
    old, new = report_samples.full_bench(), report_samples.full_bench()
    for one in new["results"]:
        if one["mode"] == "server":
            one["samples"] = [2 * value for value in one["samples"]]
    comparison = compared(write, old, new)
    assert {one.change for one in comparison.candidates if one.new.mode == "server"} == {"slower"}
    assert {one.change for one in comparison.candidates if one.new.mode == "cold"} == {"not compared"}


def test_machines_that_differ_are_named() -> None:
    old = TypeAdapter(Environment).validate_json('{"versions": {"torch": "2.14"}, "hardware": {"cpu": "A", "cores": 8}}')
    new = TypeAdapter(Environment).validate_json(
        '{"versions": {"torch": "2.15", "new": "1"}, "hardware": {"cpu": "B", "cores": 8}, "warnings": ["It was loaded."]}'
    )
    assert list(machine_differences(old, new)) == [
        "The CPU differs: A, then B.",
        "The version of torch differs: 2.14, then 2.15.",
        "In the new run: It was loaded.",
    ]
    assert list(machine_differences(old, old)) == []


def test_a_slower_baseline_is_the_machines(write: Write) -> None:
    old = report_samples.bench()
    assert any("baseline itself" in text and "slower" in text for text in compared(write, old, slowed(old, 0, 1.2)).differences)
    assert compared(write, old, old).differences == ()


def test_the_page_shows_what_changed_and_warns(write: Write) -> None:
    old, new = report_samples.bench(), slowed(report_samples.bench(), 2, 1.1)
    new["environment"]["hardware"]["cpu"] = "Another <CPU>"
    text = make_report(write(old=old, new=new), ReportOptions()).text.replace("\N{NO-BREAK SPACE}", " ")
    assert re.search(r"<h1>Of 7 measurements, 1 became slower, by up to (9|10)\.\d %</h1>", text)
    section = text.split('id="section-comparison"')[1].split("</section>")[0]
    assert "The CPU differs: Imaginary 9000, then Another &lt;CPU&gt;." in section
    first = section.split("<tbody>")[1].split("</tr>")[0]
    assert "iresnet50.onnx by ONNX Runtime, batch 1" in first
    assert "slower" in first


def test_the_gate(write: Write, run: Run) -> None:
    old = report_samples.bench()
    old_file, same, slow = write(old=old, same=slowed(old, 2, 1.03), slow=slowed(old, 2, 1.1))
    assert run("report", old_file, same, "--fail-if-slower", "5%").status == 0
    outcome = run("report", old_file, slow, "--fail-if-slower", "5 %")
    assert outcome.status == 1
    assert "Slower by more than 5 %: iresnet50.onnx by ONNX Runtime, batch 1" in outcome.err
    assert "openvino" not in outcome.err.lower()
    assert Path("report.html").exists(), "the page shows why"
    assert run("report", old_file, slow, "--fail-if-slower", "0.15").status == 0
    assert run("report", slow, old_file, "--fail-if-slower", "5%").status == 0, "faster is not slower"
    assert run("report", old_file, slow).status == 0


def test_the_gate_needs_more_than_a_noisy_median(write: Write, run: Run) -> None:
    """8 % slower, by so few turns that it may be chance."""
    old, new = report_samples.bench(), report_samples.bench()
    for document, factor in ((old, 1.0), (new, 1.08)):
        document["results"][2]["samples"] = [[factor * (39 + 12 * (turn % 2))] * 3 for turn in range(6)]
    outcome = run("report", *write(old=old, new=new), "--fail-if-slower", "5%")
    assert outcome.status == 0
    assert re.search(r"ONNX Runtime, batch 1: .*within noise", outcome.out)


def test_the_gate_fails_for_what_runs_no_more(write: Write, run: Run) -> None:
    old, new = report_samples.bench(), report_samples.bench()
    new["results"][2] |= {"status": "oom", "latency_ms": None, "samples": None, "speedup": None}
    outcome = run("report", *write(old=old, new=new), "--fail-if-slower", "5%")
    assert outcome.status == 1
    assert "measured before, and not any more (oom)" in outcome.err


@pytest.mark.slow
def test_the_gate_fails_for_a_server_that_runs_no_more(write: Write, run: Run) -> None:
    old, new = report_samples.full_bench(), report_samples.full_bench()
    for one in new["results"]:
        if one["mode"] == "server" and one["backend"] == "openvino":
            one |= {"status": "oom", "server": None, "samples": None}
    comparison = compared(write, old, new)
    assert comparison.only_old == comparison.only_new == ()
    outcome = run("report", *write(old=old, new=new), "--fail-if-slower", "5%")
    assert outcome.status == 1
    assert "highest rate with p99 within 60 ms: measured before, and not any more (oom)" in outcome.err


def test_response_times_at_different_rates_are_not_compared(write: Write) -> None:
    old, new = report_samples.full_bench(), report_samples.full_bench()
    for one in new["results"]:
        if one["mode"] == "server":
            one["server"] |= {"rate_per_s": 24.0, "highest_rate_per_s": 24.0}
    servers = [one for one in compared(write, old, new).candidates if one.new.mode == "server"]
    assert len(servers) == 5
    assert {one.change for one in servers} == {"not compared"}
    assert all("now 24.0 a second" in (one.reason or "") for one in servers)


def test_rates_of_one_server_have_names_of_their_own(write: Write) -> None:
    document = report_samples.full_bench()
    for one in list(document["results"]):
        if one["mode"] == "server":
            one["server"] |= {"p99_limit_ms": None, "highest_rate_per_s": None}
            document["results"].append(copy.deepcopy(one))
            document["results"][-1]["server"]["rate_per_s"] = 24.0
    names = [one.name for one in compared(write, document, document).candidates if one.new.mode == "server"]
    assert len(set(names)) == len(names) == 10
    assert sum("24 requests a second" in name for name in names) == 5


def test_a_gate_with_nothing_to_compare_does_not_pass(write: Write, run: Run) -> None:
    old, new = report_samples.bench(), report_samples.bench()
    for one in new["results"]:
        one["threads"] = 3
    outcome = run("report", *write(old=old, new=new), "--fail-if-slower", "5%")
    assert outcome.status == 3
    assert "Nothing could be compared" in outcome.err
    assert "Only in the old run" in outcome.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fail-if-slower", "fast"], "takes a share such as 5%"),
        (["--fail-if-slower", "5"], "write 5%"),
        (["--fail-if-slower", "-5%"], "takes a share"),
        (["--fail-if-slower", "nan"], "takes a share"),
        (["--fail-if-slower", "5%", "--no-compare"], "leave one of them out"),
        (["--compare"], "the old one and the new one"),
        (["--format", "pdf"], "is not one of"),
    ],
    ids=" ".join,
)
def test_wrong_use(options: list[str], message: str, write: Write, run: Run) -> None:
    outcome = run("report", *write(bench=report_samples.bench()), *options)
    assert outcome.status == 2
    assert message in outcome.err


def test_shares() -> None:
    assert [share_from_text(text) for text in ("5%", "5 %", "0.05", "0%", "150%")] == [0.05, 0.05, 0.05, 0, 1.5]
    with pytest.raises(InputError):
        share_from_text("%")


def test_two_benchmarks_are_compared_where_they_share_a_candidate(write: Write, run: Run) -> None:
    bench = report_samples.bench()
    other = report_samples.bench([("resnet50-00000000", "eager", "fp32", 60.0), ("resnet50.onnx", "onnxruntime", "fp32", 40.0)])
    first, second, third = write(first=bench, second=bench, third=other)
    for arguments, expected in (((first, second), True), ((first, third), False), ((first, second, "--no-compare"), False)):
        assert run("report", *arguments).status == 0
        assert ("What changed" in Path("report.html").read_text(encoding="utf-8")) is expected
    text = Path("report.html").read_text(encoding="utf-8")
    assert "first.json" in text
    assert "second.json" in text
