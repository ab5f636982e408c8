"""What the pages tell people to type works: commands are understood, code runs, results are of the kind they say."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_study import run_card, shared_study

from popclust import settings
from popclust.cli import _parser
from popclust.evaluation.associations import associate_counted
from popclust.evaluation.confounders import confounder_variables
from popclust.evaluation.counting import ReportTerms, count_population
from popclust.evaluation.permutation import null_criterion
from popclust.evaluation.validity import examine
from popclust.population.groupings import Groupings
from popclust.presentation.export.folder import export
from popclust.study import Study

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").glob("*.md")])
_PLACEHOLDER = "v1a2b3c4"


def _blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def _commands(page: Path) -> Iterator[str]:
    """Every `popclust ...` of indented blocks, and of the table of commands."""
    for line in page.read_text().splitlines():
        if match := re.match(r" {4}(?:\S*/)?popclust (.*)", line):
            yield match[1]
        elif line.startswith("| `popclust"):
            yield from (c.removeprefix("popclust ") for c in re.findall(r"`(popclust [^`]*)`", line))


# -- commands ------------------------------------------------------------------------------------------------------

COMMANDS = [(page.name, command) for page in PAGES for command in _commands(page)]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_is_understood(page: str, command: str):
    for words in _spelled_out(command):
        _parser().parse_args(words)


def _spelled_out(command: str) -> Iterator[list[str]]:
    """A line of a page as it is typed: one of several names, with and without what is optional."""
    command = command.replace("\\|", "|").replace("...", "").partition(" #")[0]
    command = re.sub(r"\b[NW]\b", "3", command).replace("--only PART", "--only tables")
    command = re.sub(r"\bSTAGE\b|--stage S\b", lambda m: "topics" if m[0] == "STAGE" else "--stage topics", command)
    whole = command.replace("[", "").replace("]", "")
    bare = re.sub(r"\[[^]]*\]", "", command)
    for line in {whole, bare}:
        first, *rest = shlex.split(line)
        for name in first.split("|"):
            yield [name, *rest]


def test_every_command_is_in_the_table_of_the_readme():
    first = [command.split()[0].replace("\\", "") for page, command in COMMANDS if page == "README.md"]
    named = {name for names in first for name in names.split("|")}
    (commands,) = (a.choices for a in _parser()._actions if a.choices and "run" in a.choices)
    assert set(commands) - named == set()


# -- code ----------------------------------------------------------------------------------------------------------


def _population() -> dict[str, Any]:
    """What docs/associations.md takes for granted."""
    study = Study.open("my-study")
    cohort, quality = study.read_table("cohort"), study.read_table("quality")
    groupings = Groupings.from_dataset(study.read_dataset("groupings"))
    terms = ReportTerms.from_mentions(study.read_table("mentions"))
    has_report = pd.Series(True, index=study.read_table("reports")["volume_id"].astype(object))
    patients = cohort.set_index("volume_id")["patient_id"]
    given = {"clusters": groupings, "terms": terms, "has_report": has_report, "patient_of_volume": patients}
    functions = (count_population, null_criterion, associate_counted, examine, confounder_variables)
    chosen = study.settings.associate
    return {**given, "cohort": cohort, "quality": quality, "settings": chosen, **{f.__name__: f for f in functions}}


_GIVEN = {"associations.md": _population}
CODE = [(page, i) for page in PAGES for i in range(len(_blocks(page)))]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study under the names that the pages give it, and its export."""
    study = shared_study(tmp_path_factory.getbasetemp()).study
    folder = tmp_path_factory.mktemp("desk")
    (folder / "my-study").symlink_to(study.url)
    (folder / "study").symlink_to(study.url)
    card = {**run_card(), "settings": settings.printable(study.settings)}
    study.write_json(card, "runs", f"{card['run_id']}.json")
    parts = ["anndata", "masks", "transforms"]
    export(study, str(folder / "exported"), parts, [_first(study)])
    (folder / "exported" / "atlas").mkdir()
    lungs = folder / "exported" / "masks" / f"{_first(study)}_lungs.nii.gz"
    (folder / "exported" / "atlas" / "atlas.nii.gz").symlink_to(lungs)
    return folder


def _first(study: Study) -> str:
    quality = study.read_table("quality")
    return str(quality.loc[quality["accepted"], "volume_id"].min())


@pytest.mark.parametrize(("page", "number"), CODE, ids=[f"{page.name}-{i}" for page, i in CODE])
def test_every_block_of_code_runs_and_gives_what_it_says(
    page: Path, number: int, desk: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(desk)
    code = _blocks(page)[number].replace(_PLACEHOLDER, _first(Study.open("my-study")))
    lines, names = code.splitlines(), _GIVEN.get(page.name, dict)()
    for statement in ast.parse(code).body:
        source = ast.unparse(statement)
        comment = lines[(statement.end_lineno or 1) - 1].partition("  # ")[2]
        if isinstance(statement, ast.Expr):
            _is_of_the_kind(eval(source, names), comment)
        else:
            exec(source, names)


def _is_of_the_kind(value: Any, comment: str) -> None:
    """A comment that lists columns or dimensions lists those of the value; a table has rows."""
    assert value is not None or not comment  # what is only written shows nothing
    if isinstance(value, pd.DataFrame):
        assert len(value)
    listed = re.fullmatch(r"\(?(\w+(?:, \w+)+)\)?(?:, .*)?", comment)
    if not listed:
        return
    names = listed[1].split(", ")
    if hasattr(value, "dims"):
        assert list(value.dims) == names
    elif isinstance(value, pd.DataFrame):
        assert set(names) <= set(value.columns)
    else:
        assert np.size(value)


def test_the_readme_s_associations_are_the_significant_ones(desk: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(desk)
    (code,) = _blocks(ROOT / "README.md")
    names: dict[str, Any] = {}
    exec(code, names)
    study = names["study"]
    shown = [ast.unparse(s) for s in ast.parse(code).body if "associations" in ast.unparse(s)]
    assert shown
    for source in shown:
        assert len(eval(source, names)) == study.reported.Q
