"""The package as a whole: its face, its version, the order of its rooms."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster

import popclust
from popclust.dataflow.client import connect
from popclust.dataflow.flow import Flow
from popclust.errors import InputError
from popclust.population.vocabulary import VOCABULARIES, Vocabulary
from popclust.settings import AssociateSettings, HaralickSettings, Settings, SiftSettings, VocabularySettings

ROOT = Path(__file__).parents[1]
PACKAGE = Path(popclust.__file__).parent


def _python(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


# -- the face ------------------------------------------------------------------------------------------------------


def test_importing_costs_next_to_nothing():
    seconds = []
    for _ in range(3):
        report = _python("-X", "importtime", "-c", "import popclust").stderr.splitlines()
        seconds.append(sum(int(line.split("|")[0].split(":")[1]) for line in report[1:]) / 1e6)
    assert min(seconds) < 0.3
    loaded = _python("-c", "import popclust, sys; print(*sys.modules)").stdout.split()
    assert not {"numpy", "dask", "numba", "itk", "popclust.study"} & set(loaded)


def test_every_name_of_the_face_is_there_and_known_to_editors():
    shown = dir(popclust)
    for name in popclust._PLACES:
        assert name in shown
        assert callable(getattr(popclust, name)), name
    with pytest.raises(AttributeError, match="'popclust' has no attribute 'normalise'"):
        getattr(popclust, "normalise")  # noqa: B009
    assert _names_for_type_checkers() == popclust._PLACES


def _names_for_type_checkers() -> dict[str, str]:
    """What the block under TYPE_CHECKING declares, in the form of the table that is used at run time."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    modules, places = {}, {}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            (name,) = node.names
            modules[name.name] = str(node.module).removeprefix("popclust.")
            if name.asname:
                places[name.asname] = modules[name.name]
        elif isinstance(node, ast.Assign):
            (target,) = node.targets
            path = ast.unparse(node.value)
            places[ast.unparse(target)] = f"{modules[path.partition('.')[0]]}:{path}"
    return places


def test_a_notebook_goes_from_a_volume_to_groups_and_associations():
    """The whole road on arrays: no study, no Dask cluster."""
    settings = replace(
        Settings(),
        haralick=HaralickSettings(spacing_mm=3.0, window_mm=9.0, step_mm=9.0, distances=(1,)),
        sift=SiftSettings(spacing_mm=3.0),
        vocabulary=VocabularySettings(n_words_haralick=12, n_words_micro_sift=6, block_rows=256, spatial_weight=0.1),
    )
    rng = np.random.default_rng(0)
    texture, shape = [], []
    for i in range(24):  # the lungs of every second person are coarser
        hu = rng.normal(-850, 20 + 80 * (i % 2), (24, 24, 24)).astype(np.int16)
        volume = popclust.Volume(hu, (3.0, 3.0, 3.0))
        lung = volume.with_values(np.ones(volume.shape, dtype=bool))
        haralick = popclust.sample_haralick(volume, lung, settings.haralick)
        sift = popclust.sample_sift(volume, lung, settings.sift)
        texture.append((haralick.features, haralick.positions_mm))
        shape.append((sift.descriptor, sift.position_mm))
    counts, vocabulary_of_word = [], []
    for name, rows in {"haralick": texture, "micro_sift": shape}.items():
        features, positions_mm = (np.concatenate(part) for part in zip(*rows, strict=True))
        words = popclust.learn_vocabulary(name, features, positions_mm, settings.vocabulary)
        counts.append(np.stack([words.counts(*own) for own in rows]))
        assert counts[-1].sum(axis=1).tolist() == [len(features) for features, _ in rows]
        vocabulary_of_word += [name] * len(words.centres)

    word = np.array(vocabulary_of_word, dtype=object)
    scaled = popclust.scale_counts(np.hstack(counts), word, settings.encode)
    topics = popclust.fit_topics(scaled, settings.topics).transform(scaled)
    descriptors = popclust.descriptor_matrix("lda", scaled, word, topics)
    volumes = [f"v{i:02}" for i in range(24)]
    groups = popclust.group_over_seeds(descriptors, volumes, "lda", 2, settings.cluster)
    is_coarse = groups["volume_id"].str[1:].astype(int) % 2
    assert groups.groupby(["seed", is_coarse])["cluster"].nunique().eq(1).all()

    lexicon = popclust.load_lexicon()
    texts = ["Diffuse emphysema." if i % 2 else "Normal lungs, no emphysema." for i in range(24)]
    mentions = popclust.find_mentions(texts, ["en"] * 24, lexicon, settings.terms)
    mentions["volume_id"] = [volumes[r] for r in mentions["report"]]
    mentions["term"] = mentions["term_id"].map(lexicon.labels)
    result = popclust.associate(
        groups,
        popclust.ReportTerms.from_mentions(mentions),
        pd.Series(True, index=volumes),
        pd.Series(volumes, index=volumes),
        AssociateSettings(min_term_count=3, n_permutations=50),
    )
    significant = result.associations.query("p_holm <= 0.001")
    assert "emphysema" in set(significant["term"])
    assert result.criterion["p_value"].max() < 0.05


def test_words_learnt_in_memory_are_those_that_a_run_learns(finished: Flow):
    study = finished.study
    for name in VOCABULARIES:
        rows = study.open_group("vocabulary", "training.zarr")[name][...]
        settings = study.settings.vocabulary
        learnt = Vocabulary.load(study.open_group("vocabulary", f"{name}.zarr"))
        left_out = learnt.scaling.nuisance
        words = popclust.learn_vocabulary(name, rows[:, :-3], rows[:, -3:], settings, shuffle=False, nuisance=left_out)
        assert (words.centres == learnt.centres).all()
        assert (words.scaling.spread == learnt.scaling.spread).all()


# -- the version ---------------------------------------------------------------------------------------------------


def test_the_version_is_that_of_the_tag_or_the_one_to_come():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\+g[0-9a-f]+(\.d\d{8})?)?", popclust.__version__)


def test_the_digest_changes_with_the_code_alone(tmp_path: Path):
    shutil.copytree(PACKAGE, tmp_path / "popclust")
    command = ("-c", "import popclust; print(popclust.__file__, popclust.source_digest())")

    def digest() -> str:
        file, value = _python(*command, cwd=tmp_path, PYTHONPATH=str(tmp_path)).stdout.split()
        assert Path(file).parent == tmp_path / "popclust"
        return value

    assert digest() == popclust.source_digest()
    assert re.fullmatch("[0-9a-f]{16}", popclust.source_digest())
    (tmp_path / "popclust" / "features" / "notes.txt~").write_text("left by an editor")
    assert digest() == popclust.source_digest()
    source = tmp_path / "popclust" / "features" / "sampling.py"
    source.write_text(source.read_text().replace("n // 2", "n // 3"))
    changed = digest()
    assert changed != popclust.source_digest()
    source.rename(source.with_name("sampled.py"))
    assert digest() not in (changed, popclust.source_digest())


def test_workers_with_other_code_are_refused(tmp_path: Path):
    shutil.copytree(PACKAGE, tmp_path / "popclust")
    with (tmp_path / "popclust" / "schema.py").open("a") as file:
        file.write("# one line more\n")
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        worker = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address, "--no-dashboard"],
            env={**os.environ, "PYTHONPATH": str(tmp_path), "DASK_DISTRIBUTED__WORKER__DAEMON": "False"},
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
        )
        try:
            client.wait_for_workers(1, timeout=60)
            with pytest.raises(InputError) as refused, connect(cluster.scheduler_address):
                pass
        finally:
            worker.terminate()
            worker.wait(30)
    assert popclust.source_digest() in str(refused.value)
    assert popclust.__version__ in str(refused.value)
    assert "start the workers again" in str(refused.value)


# -- the house -----------------------------------------------------------------------------------------------------

ROOMS = (
    *("__main__", "cli", "commands", "dataflow", "presentation", "evaluation", "reports", "population", "simulation"),
    *("normalization", "features", "imaging"),
)
"""From the roof down; what is no room (the study, its schema, settings, errors) lies below all of them."""
LONG: dict[str, str] = {}
"""Files of more than 400 lines, and why."""


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_module(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def _imported(tree: ast.AST) -> Iterator[str]:
    """Everything that a module imports, within functions too; not what only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if inner in MODULES else str(node.module)
        yield from _imported(node)


def _floor(module: str) -> int:
    room = module.split(".")[1]
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)


def test_imports_run_downwards_and_never_in_a_circle():
    own = {m: {i for i in _imported(tree) if i in MODULES and i != "popclust"} for m, tree in MODULES.items()}
    assert len(own["popclust.dataflow.pipeline"]) > 5
    del own["popclust"]
    TopologicalSorter(own).prepare()  # raises CycleError, with the circle
    upwards = [f"{a} imports {b}" for a, found in own.items() for b in sorted(found) if _floor(b) < _floor(a)]
    assert upwards == []


def test_dask_is_spoken_in_the_dataflow_alone():
    speakers = {m for m, tree in MODULES.items() if {"dask", "dask_ml", "distributed"} & _tops(_imported(tree))}
    assert "popclust.dataflow.client" in speakers
    assert {m for m in speakers if not m.startswith("popclust.dataflow.")} == set()


def _tops(imported: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in imported}


EXPORT = "popclust.presentation.export."
"""The room that alone imports the packages of the group `export`: without them all the rest works."""


def test_what_is_imported_is_declared_and_the_other_way_round():
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    modules = {
        **{"dask-ml": "dask_ml", "itk-elastix": "itk", "pillow": "PIL", "pyahocorasick": "ahocorasick"},
        **{"python-gdcm": "gdcm", "scikit-learn": "sklearn"},
    }
    groups = (project["dependencies"], project["optional-dependencies"]["export"])
    declared, optional = ({modules.get(n, n) for n in _names(requirements)} for requirements in groups)
    own = {"popclust", "__future__", *sys.stdlib_module_names}
    imported = {m: _tops(_imported(tree)) - own for m, tree in MODULES.items()}
    assert set().union(*imported.values()) == declared | optional
    assert {m for m, found in imported.items() if found & optional and not m.startswith(EXPORT)} == set()


def _names(requirements: Iterable[str]) -> set[str]:
    return {re.split(r"[\[>=]", requirement)[0] for requirement in requirements}


def test_no_file_is_longer_than_a_person_reads_at_once():
    files = [p for room in ("popclust", "tests", "benchmarks", "deploy") for p in (ROOT / room).rglob("*.py")]
    long = {p.relative_to(ROOT).as_posix() for p in files if len(p.read_text().splitlines()) > 400}
    assert long == set(LONG)
