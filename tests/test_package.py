"""The package as a whole: its face, its version, the order of its rooms, its changelog."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
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
        words = popclust.learn_vocabulary(name, rows[:, :-3], rows[:, -3:], settings, shuffle=False)
        learnt = Vocabulary.load(study.open_group("vocabulary", f"{name}.zarr"))
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
