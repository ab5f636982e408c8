"""Lexicons: the built-in one against RadLex, files of every kind, and bad ones."""

from __future__ import annotations

import csv
import gzip
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from popclust.errors import InputError
from popclust.reports.concepts import Name
from popclust.reports.lexicon import Lexicon, load_lexicon
from popclust.reports.terms import find_mentions
from popclust.settings import TermsSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from radlex_owl import write_owl

OWL = """<?xml version="1.0"?>
<!DOCTYPE rdf:RDF [<!ENTITY rid "http://www.radlex.org/RID/">]>
<rdf:RDF xmlns:owl="http://www.w3.org/2002/07/owl#" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
 xmlns:rdfs="http://www.w3.org/2000/01/rdf-schema#" xmlns:R="http://www.radlex.org/RID/" xmlns:S="http://radlex.org/RID/">
<owl:Class rdf:about="&rid;RID34785"><rdfs:label xml:lang="en">clinical finding</rdfs:label></owl:Class>
<owl:Class rdf:about="http://www.radlex.org/RID/#RID10">
  <rdfs:label xml:lang="en">RID10</rdfs:label><R:Preferred_name xml:lang="en">odd lesion</R:Preferred_name>
  <rdfs:subClassOf rdf:resource="&rid;RID34785"/>
  <rdfs:subClassOf><owl:Restriction><owl:someValuesFrom rdf:resource="&rid;RID77"/></owl:Restriction></rdfs:subClassOf>
</owl:Class>
<rdf:Description rdf:about="http://radlex.org/RID/RID10">
  <rdfs:label xml:lang="de">seltsamer Herd</rdfs:label><S:Synonym xml:lang="de">komischer Fleck</S:Synonym>
  <S:Preferred_name_German>odd lesion (EN)</S:Preferred_name_German>
</rdf:Description>
<owl:Class rdf:about="&rid;RID11">
  <rdfs:label xml:lang="en">older lesion</rdfs:label><owl:deprecated>true</owl:deprecated>
  <rdfs:subClassOf rdf:resource="&rid;RID34785"/></owl:Class>
<owl:Class rdf:about="&rid;RID12"><rdfs:label xml:lang="en">no</rdfs:label><rdfs:label xml:lang="de">kein</rdfs:label>
  <rdfs:subClassOf rdf:resource="&rid;RID34785"/></owl:Class>
<owl:Class rdf:about="&rid;RID13"><rdfs:label xml:lang="en">sub lesion</rdfs:label>
  <rdfs:subClassOf rdf:resource="&rid;RID10"/></owl:Class>
<owl:Class rdf:about="&rid;RID77"><rdfs:label xml:lang="en">heart</rdfs:label></owl:Class>
</rdf:RDF>
"""


def _write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def _names(lexicon: Lexicon) -> dict[str, set[str]]:
    return {c.term_id: {n.text for n in c.names} for c in lexicon.concepts}


def test_owl_is_merged_by_identifier_over_elements_and_namespaces(tmp_path: Path) -> None:
    path = _write(tmp_path / "radlex.owl", OWL)
    assert _names(load_lexicon(path)) == {
        "RID10": {"odd lesion", "seltsamer Herd", "komischer Fleck"},
        "RID13": {"sub lesion"},
    }
    assert load_lexicon(path).labels["RID10"] == "odd lesion"
    assert load_lexicon(path, ("RID13", "RID77")).term_ids == ("RID13", "RID77")
    with gzip.open(tmp_path / "radlex.owl.gz", "wt", encoding="utf-8") as out:
        out.write(OWL)
    assert load_lexicon(str(tmp_path / "radlex.owl.gz")) == load_lexicon(path)


def test_bioportal_csv(tmp_path: Path) -> None:
    rows = [
        "Class ID,Preferred Label,Synonyms,Obsolete,Parents,http://www.radlex.org/RID/Preferred_name_German",
        "http://www.radlex.org/RID/RID34785,clinical finding,,false,,",
        "http://www.radlex.org/RID/RID10,odd lesion,strange lesion|Merkwürdige Läsion,false,http://www.radlex.org/RID/RID34785,Herd",
        "http://www.radlex.org/RID/RID11,older lesion,,true,http://www.radlex.org/RID/RID34785,",
    ]
    lexicon = load_lexicon(_write(tmp_path / "radlex.csv", "\n".join(rows)))
    assert {(n.text, n.language) for c in lexicon.concepts for n in c.names} == {
        ("odd lesion", "en"),
        ("strange lesion", "en"),
        ("Merkwürdige Läsion", "de"),
        ("Herd", "de"),
    }


def test_radlex_csv_has_the_findings_and_the_builtin_agrees_with_it(data_path: Callable[[str], Path]) -> None:
    path = data_path("radlex/radlex_2017_label_rid_parent.csv")
    lexicon = load_lexicon(str(path), ("RID34785", "RID5"), builtin_synonyms=False)
    assert len(lexicon.term_ids) >= 3273
    with path.open(encoding="utf-8", newline="") as lines:
        labels = {row[1]: row[0] for row in csv.reader(lines)}
    for term_id, label in load_lexicon().labels.items():
        if term_id.startswith("RID"):
            assert labels[term_id] == label or term_id == "RID5217" or label == "enlarged spleen"


def test_duplicate_identifiers_are_merged_and_builtin_names_added(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "own.csv", "clinical finding,RID34785,\nemphysema,RID4799,RID34785\nairy lung,RID4799,RID34785\n"
    )
    names = _names(load_lexicon(path))["RID4799"]
    assert {"emphysema", "airy lung", "lungenemphysem"} <= names
    assert _names(load_lexicon(path, builtin_synonyms=False)) == {"RID4799": {"emphysema", "airy lung"}}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,RID1,RID2\nb,RID2,RID1\nclinical finding,RID34785,RID2\nc,RID3,RID34785\n", "lies above itself"),
        ("a.csv", "heart,RID1,RID2\n", "no class below"),
        ("a.csv", "nothing here\n", "no class with a RadLex identifier"),
        ("a.txt", "heart,RID1,RID2\n", "wanted a file"),
        ("a.owl", "<rdf:RDF", "the XML is broken"),
        ("a.owl", '<!DOCTYPE a [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><a>&b;</a>', "refused as an attack"),
        ("a.owl", '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><a>&a;</a>', "refused as an attack"),
        ("a.owl", '<!DOCTYPE a [<!ENTITY % a SYSTEM "http://x/y">%a;]><a/>', "refused as an attack"),
        ("a.csv.gz", "not gzip", "cannot be read"),
    ],
)
def test_bad_lexicons_are_refused_in_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_lexicon(_write(tmp_path / name, text))
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_a_root_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "clinical finding,RID34785,\nlung finding,RID1,RID34785\n")
    assert load_lexicon(path, builtin_synonyms=False).term_ids == ("RID1",)
    with pytest.raises(InputError, match="no class below RID77;"):
        load_lexicon(path, ["RID34785", "RID77"])


def test_findings_that_radlex_lacks_join_where_a_class_above_them_is_looked_for(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "clinical finding,RID34785,\nmediastinal disease,RID3775,RID34785\n")
    assert "pc:cardiomegaly" in load_lexicon(path).term_ids
    assert "pc:cavitation" not in load_lexicon(path).term_ids
    assert load_lexicon(path, builtin_synonyms=False).term_ids == ("RID3775",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_names_in_a_language_of_their_own_row(tmp_path: Path, encoding: str) -> None:
    rows = "label,RID,parent,language\nclinical finding,RID34785,,\nödem,RID1,RID34785,DE\nedema,RID1,RID34785,en\n"
    (tmp_path / "a.csv").write_bytes(rows.encode(encoding))
    (concept,) = load_lexicon(str(tmp_path / "a.csv"), builtin_synonyms=False).concepts
    assert concept.label == "edema"
    assert set(concept.names) == {Name("edema", "en"), Name("ödem", "de")}


def test_missing_lexicon() -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_lexicon("/nowhere/radlex.owl")


def test_a_large_owl_has_every_class(tmp_path: Path) -> None:
    write_owl(tmp_path / "radlex.owl", 3000)
    lexicon = load_lexicon(str(tmp_path / "radlex.owl"), builtin_synonyms=False)
    text = ["invented observation 20; erdachter Befund Nummer 2990"]
    assert len(find_mentions(text, ["de"], lexicon, TermsSettings())) == 1
    assert len(lexicon.term_ids) >= 300
    assert sum(n.language == "de" for c in lexicon.concepts for n in c.names) == len(lexicon.term_ids)


def test_roll_up_goes_to_the_nearest() -> None:
    lexicon = load_lexicon()
    rolled = lexicon.rolled_up(["RID4799", "RID28493", "RID28506"])
    assert rolled["RID28504"] == "RID4799"
    assert rolled["RID28513"] == "RID28493"
    assert rolled["pc:volume_loss"] == "RID28506"
    assert rolled["RID5350"] == "RID5350"


def test_lexicons_are_keys_by_content() -> None:
    lexicon = load_lexicon()
    assert pickle.loads(pickle.dumps(lexicon)) == lexicon  # noqa: S301
    assert hash(pickle.loads(pickle.dumps(lexicon))) == hash(lexicon)  # noqa: S301
    assert Lexicon(lexicon.concepts[1:]) != lexicon
    assert "Radiological Society of North America" in lexicon.notice
