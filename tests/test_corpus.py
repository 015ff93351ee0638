"""Small damaged files that were once read wrongly, or might be: every reader takes them or says in a typed error why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

STUDIES, CORPUS = Path(__file__).parents[1] / "studies", Path(__file__).parent / "corpus"
FILES = sorted(path.name for path in CORPUS.iterdir())


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    """The script, as `python studies/fuzz.py` finds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDIES))
        import fuzz

        yield fuzz


def test_the_corpus_is_small_and_there() -> None:
    assert len(FILES) > 30
    assert sum((CORPUS / name).stat().st_size for name in FILES) < 120_000


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_or_refused(fuzz: ModuleType, tmp_path: Path, name: str) -> None:
    path = tmp_path / name.replace("-", ".", 1)
    content = (CORPUS / name).read_bytes()
    for reader in fuzz.readers_of(name):
        path.write_bytes(content)
        assert fuzz.finding(reader, path) is None
    assert not (tmp_path / "owned").exists()


def test_the_fuzz_makes_the_same_files_again_and_sees_what_is_wrong(fuzz: ModuleType, tmp_path: Path) -> None:
    content = {name: seed for name, seed in fuzz.seeds().items() if name != "whole.pt"}
    names = list(content)
    for number in range(2 * len(names)):
        path, readers = fuzz.one_file(tmp_path, 7, number, content, names)
        first = path.read_bytes()
        assert fuzz.one_file(tmp_path, 7, number, content, names)[0].read_bytes() == first
        for reader in readers:
            assert fuzz.finding(reader, path) is None

    def stumbles(path: Path) -> object:
        return {}[path]

    assert "KeyError at test_corpus.py" in (fuzz.finding(stumbles, tmp_path) or "")
