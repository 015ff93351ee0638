"""The page as a document: valid, self-contained, navigable, safe, and holding what its reports hold and no more."""

from __future__ import annotations

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import html5lib
import pytest
import report_samples
from conftest import Outcome
from hostile_reports import HOSTILE
from PIL import Image

from iresnet_export.reporting.report import ReportOptions, make_report

Run = Callable[..., Outcome]
Write = Callable[..., list[Path]]
Shown = Any
Element = ElementTree.Element
SVG = "{http://www.w3.org/2000/svg}"


def page_of(paths: list[Path], **options: Any) -> str:
    return make_report(paths, ReportOptions(**options)).text


def parsed(text: str) -> Element:
    """Strictly: whatever a browser would have to repair raises."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


def headings(root: Element) -> list[str]:
    return ["".join(element.itertext()) for element in root.iter("h2")]


def test_every_section_has_its_data(rich: Shown) -> None:
    root = parsed(rich.text)
    assert headings(root) == [
        "Verdicts", "Measurements", "Speed-ups", "Latency", "Batch sizes", "Accuracy against latency", "Mixed precision",
        "Classes", "Calibration", "Mistakes", "The machine's limit", "Under load", "Cold start", "Parity", "Training",
        "Environment",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bench", ["Measurements", "Speed-ups", "Latency", "The machine's limit", "Not measured", "Environment"]),
        ("verify", ["Verdicts", "Mixed precision", "Parity", "Not measured", "Environment"]),
        ("evaluation", ["Verdicts", "Accuracy", "Classes", "Calibration", "Mistakes", "Not measured", "Environment"]),
        ("training", ["Verdicts", "Training", "Not measured", "Environment"]),
    ],
)
def test_a_section_without_data_does_not_appear(kind: str, expected: list[str], write: Write) -> None:
    root = parsed(page_of(write(report=getattr(report_samples, kind)())))
    assert headings(root) == expected
    absent = {term.text: definition for term, definition in zip(root.iter("dt"), root.iter("dd"), strict=True)}
    assert ("Training curves" in absent) is (kind != "training")
    assert ("Parity by block" in absent) is (kind != "verify")
    assert ("Latency, speed-ups" in absent) is (kind != "bench")


def test_the_commands_own_reports_make_a_page(real: list[Path], run: Run) -> None:
    outcome = run("report", *real, "-o", "folder/page.html")
    assert outcome.status == 0, outcome.err
    assert "Report: folder/page.html" in outcome.err
    text = Path("folder/page.html").read_text(encoding="utf-8")
    root = parsed(text)
    assert headings(root)[:4] == ["Verdicts", "Measurements", "Speed-ups", "Latency"]
    assert any("block by block" in "".join(caption.itertext()) for caption in root.iter("figcaption"))
    assert len(text) < 1_000_000


def headline(paths: list[Path]) -> str:
    return "".join(next(parsed(page_of(paths)).iter("h1")).itertext()).replace("\N{NO-BREAK SPACE}", " ")


def test_the_first_sentence_is_the_result(write: Write) -> None:
    bench = report_samples.bench()
    assert headline(write(a=bench)) == "iResNet-50 int8 by OpenVINO: 5.5 times as fast as eager PyTorch, parity passed"
    for one in bench["results"]:
        one["parity"] = None
    assert headline(write(a=bench)).endswith("parity not checked")
    assert headline(write(a=bench, b=report_samples.verify())).startswith("Parity failed: iresnet50-nofold.onnx by ONNX Runtime is")
    failed = report_samples.bench()
    failed["results"][-1] |= {"status": "failed_parity", "parity": {"status": "fail"}, "speedup": None}
    assert headline(write(a=failed)) == "Parity failed: iresnet50-int8-cpu.onnx by OpenVINO is not what was trained"
    tied = report_samples.bench(report_samples.CANDIDATES[:1] + report_samples.CANDIDATES[2:3])
    tied["results"][1]["speedup"] = {"p50": 1.01, "ci95": [0.98, 1.03], "tie": True}
    assert headline(write(a=tied)) == "iResNet-50 fp32 by ONNX Runtime: as fast as eager PyTorch within noise, parity passed"
    tied["results"][1]["speedup"] = {"p50": 0.8, "ci95": [0.78, 0.83], "tie": False}
    assert headline(write(a=tied)).startswith("Nothing here is faster than eager PyTorch")


def test_what_is_skipped_is_never_called_passed(write: Write) -> None:
    verify = report_samples.verify()
    verify["candidates"] = verify["candidates"][-1:]
    text = page_of(write(verify=verify))
    assert headline(write(verify=verify)) == "Nothing could be verified on this machine"
    assert "0 of 1" in text
    assert "✓" not in text


def test_an_accuracy_is_of_one_set_of_images(write: Write) -> None:
    """Those of `eval`, if there are any; `verify` counts a few images only, and its figures would not stand beside them."""
    verify, evaluation = report_samples.verify(), report_samples.evaluation()
    verify["candidates"][0] |= {
        "artifact": "iresnet50.ts", "backend": "torchscript",
        "decisions": {"images": 8, "accuracy": {"reference": {"percent": 12.5}, "candidate": {"percent": 12.5}}},
    }  # fmt: skip
    evaluation["results"] = [one for one in evaluation["results"] if one["backend"] != "torchscript"]
    root = parsed(page_of(write(bench=report_samples.bench(), verify=verify, eval=evaluation)))
    described = next("".join(each.itertext()) for each in root.iter() if each.get("id") == "accuracy-wide-desc")
    assert "12.5" not in described
    assert "TorchScript" not in described
    assert "eager" in described


def test_the_page_needs_nothing_else(rich: Shown) -> None:
    text = rich.text
    root = parsed(text)
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert not [element.tag for element in root.iter() if element.get("src") is not None]
    links = {element.get("href") for element in root.iter() if element.get("href") is not None}
    assert all(link is not None and link.startswith("#") for link in links)
    assert {link[1:] for link in links if link} <= {element.get("id") for element in root.iter()}
    assert not re.search(r"@import|url\((?!#)", text)
    policy = next(element.get("content") for element in root.iter("meta") if element.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert len(text.encode()) < 1_500_000


def test_raw_samples_do_not_make_it_larger(write: Write) -> None:
    bench = report_samples.bench()
    small = len(page_of(write(bench=bench)))
    for one in bench["results"]:
        one["samples"] = report_samples.samples(one["latency_ms"]["p50"], seed=1, turns=300, runs=100)
    assert len(page_of(write(bench=bench))) < 1.2 * small


def test_a_screen_reader_finds_its_way(rich: Shown) -> None:
    root = parsed(rich.text)
    assert [element.tag for element in root.iter() if element.tag in ("header", "nav", "main", "footer")] == [
        "header",
        "nav",
        "main",
        "footer",
    ]
    assert next(root.iter("html")).get("lang") == "en"
    levels = [int(element.tag[1]) for element in root.iter() if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    identifiers = Counter(element.get("id") for element in root.iter() if element.get("id"))
    assert max(identifiers.values()) == 1
    for table in root.iter("table"):
        assert table.find("caption") is not None
        assert all(cell.get("scope") in ("col", "row") for cell in table.iter("th"))
        assert all(row[0].get("scope") == "row" for row in table.findall("tbody/tr"))
    for element in root.iter():
        for name in (element.get("aria-labelledby") or "").split():
            assert name in identifiers
    plots = [element for element in root.iter() if element.get("role") == "img"]
    assert len(plots) >= 16
    for plot in plots:
        title, description = plot[0], plot[1]
        assert (title.tag, description.tag) == (f"{SVG}title", f"{SVG}desc")
        assert title.text
        assert len(description.text or "") > 30


def test_what_reports_say_is_text_and_nothing_else(hostile: Shown) -> None:
    text = hostile.text
    root = parsed(text)
    assert not {element.tag.rpartition("}")[2] for element in root.iter()} & {"script", "img", "b", "foreignObject"}
    assert not [(element.tag, key) for element in root.iter() for key in element.attrib if key.startswith("on")]
    said = " ".join("".join(root.itertext()).split())
    for attack in HOSTILE:
        assert " ".join(attack.split()) in said
    assert len(list(root.iter("style"))) == 1


def test_a_page_shows_pictures_only_of_a_report_that_brings_them(write: Write) -> None:
    document = report_samples.evaluation()
    assert "img-src" not in page_of(write(eval=document))
    buffer = BytesIO()
    Image.new("RGB", (96, 80), "red").save(buffer, "JPEG")
    small = f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"
    document["results"][2]["mistakes"][0]["thumbnail"] = small
    text = page_of(write(eval=document))
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'" in text
    assert [element.attrib for element in parsed(text).iter("img")] == [{"src": small, "alt": ""}]


def jpeg(side: int, kind: str = "JPEG") -> str:
    buffer = BytesIO()
    Image.new("RGB", (side, 8)).save(buffer, kind)
    return b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        ("https://example.com/a.jpg", "it is no JPEG that begins with"),
        ("data:image/svg+xml;base64,PHN2Zz4=", "it is no JPEG that begins with"),
        ('data:image/jpeg;base64,"><script>', "it is no JPEG that can be read"),
        (f"data:image/jpeg;base64,{jpeg(8, 'PNG')}", "it is no JPEG that can be read"),
        (f"data:image/jpeg;base64,{jpeg(5000)}", "it has more than 96 pixels a side"),
        (f"data:image/jpeg;base64,{'A' * 40_000}", "it is no JPEG that begins with"),
    ],
)
def test_what_is_no_small_jpeg_is_no_picture(write: Write, run: Run, picture: str, said: str) -> None:
    document = report_samples.evaluation()
    document["results"][2]["mistakes"][0]["thumbnail"] = picture
    outcome = run("report", *write(eval=document), "-o", "page.html")
    assert outcome.status == 2
    assert "results.2.mistakes.0.thumbnail is not as it should be" in outcome.err
    assert said in outcome.err
    assert not Path("page.html").exists()


def test_many_classes_are_a_table_of_pairs_and_few_a_matrix(write: Write) -> None:
    document = report_samples.evaluation()
    text = page_of(write(eval=document))
    captions = [" ".join("".join(caption.itertext()).split()) for caption in parsed(text).iter("caption")]
    assert text.count("confusion matrix</figcaption>") == 2
    assert "iresnet50-bf16.onnx by OpenVINO: what is taken for what, the 20 of 60 that are most frequent" in captions
    assert "iresnet50-bf16.onnx by OpenVINO: the 20 classes of 60 that are recognised worst" in captions
    assert "iresnet50.onnx by ONNX Runtime: every class" in captions
    said = " ".join("".join(parsed(text).itertext()).split()).replace("\N{NO-BREAK SPACE}", " ")
    assert "hurts class a long name of class 3: recall 90.0 → 72.0 % (p = 0.024 of 2 classes)" in said
    assert "bf16.onnx by OpenVINO beside iresnet50.onnx by ONNX Runtime: no class changes more than chance would" in said


def test_numbers_of_classes_take_no_memory(write: Write) -> None:
    document = report_samples.evaluation()
    for one in document["results"][2]["classes"]:
        one["class"] += 2**52
    document["results"][2]["confusions"]["listed"][0] |= {"actual": 2**53, "predicted": 2**53, "images": 2**53}
    parsed(page_of(write(eval=document)))


def test_a_title_stands_above(write: Write) -> None:
    root = parsed(page_of(write(bench=report_samples.bench()), title="Nightly & </title><b>weekly"))
    assert next(root.iter("title")).text == "Nightly & </title><b>weekly"
    assert "Nightly & </title><b>weekly" in next(
        element.text or "" for element in root.iter("p") if element.get("class") == "eyebrow"
    )


def test_the_same_reports_make_the_same_page(rich: Shown) -> None:
    assert page_of(rich.reports) == rich.text


def test_reports_without_any_optional_key_make_a_page(write: Write) -> None:
    """The least that a report may hold: nothing is invented, nothing falls over."""
    bench = {
        "artifact": "a.onnx", "backend": "x", "precision": "fp8", "device": "cuda", "batch": 1, "threads": 1, "status": "ok",
        "latency_ms": {"p50": 2.0},
    }  # fmt: skip
    documents = {
        "bench": {
            "schema": "iresnet-export/bench/1",
            "environment": {},
            "results": [bench, bench | {"artifact": "b.onnx", "latency_ms": None}],
        },
        "verify": {"schema": "iresnet-export/verify/1", "environment": {}, "candidates": [], "passed": False},
        "eval": {"schema": "iresnet-export/eval/1", "environment": {}, "results": []},
        "train": report_samples.training(1) | {"epochs": [], "best": None, "status": "running"},
    }
    text = page_of(write(**documents))
    assert headings(parsed(text))
    assert "None" not in re.sub(r"<[^>]*>", "", text)
    assert "nan" not in re.sub(r"<[^>]*>", "", text).lower().replace("nano", "")


def test_hundreds_of_blocks_and_measurements(write: Write) -> None:
    verify, bench = report_samples.verify(), report_samples.bench(batches=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512))
    verify["candidates"][0]["localisation"] = [
        {"place": f"stage 3 block {index}", "sqnr_db": 120.0 - index / 10, "floor_db": None, "ratio": None} for index in range(333)
    ]
    text = page_of(write(verify=verify, bench=bench))
    parsed(text)
    assert len(text) < 3_000_000


def test_a_speed_from_a_loaded_machine_is_not_shouted(write: Write) -> None:
    document = report_samples.bench()
    document["environment"]["warnings"] = ["The machine was loaded: just before the run other work held 1.9 cores. So it is."]
    paths = write(bench=document)
    said = headline(paths)
    assert said.startswith("Measured on a loaded machine, so in doubt: iResNet-50 int8 by OpenVINO at 5.5")
    assert "95 % interval 5.4" in said
    text = page_of(paths)
    assert '<h1 class="doubtful">' in text
    assert text.count("the machine was loaded</span>") == 2, "both figures say so"
    governor = report_samples.bench()
    governor["environment"]["warnings"] = ["The processor's frequency governor is powersave, not performance: it changes."]
    assert "doubtful" not in page_of(write(bench=governor)).partition("<h1")[2][:30]


def test_an_earlier_reports_verdict_over_a_baseline_that_contradicts_itself_is_withdrawn(write: Write) -> None:
    """It was 535 times as fast, over a baseline that took longer for one image than for eight."""
    document = report_samples.bench(batches=(1, 8))
    document["results"][0]["latency_ms"] |= {"p50": 5000.0, "max": 9000.0, "p50_ci95": [-19.89, 9358.73]}
    document["recommendation"] = report_samples.full_bench()["recommendation"] | {"sentence": "It is 535 times as fast."}
    for entry in document["results"]:
        entry["parity"] = None
    text = page_of(write(bench=document))
    assert "It is 535 times as fast" not in text
    assert headline(write(bench=document)) == "No verdict on speed: eager PyTorch was not steady while it was measured"
    assert "It took 5,000 ms at batch 1 and" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "-19.9" not in text
    assert "9,359" not in text
    assert "times as fast as" not in text.partition("<main")[0]
