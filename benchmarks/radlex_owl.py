"""Load a made-up OWL file of RadLex's size: how long, and how much memory.

    python benchmarks/radlex_owl.py [--classes 46900] [--json]

The file has the form of RadLex: a class in an owl:Class with its English label and parent, German labels in
later rdf:Description elements, half of them in the other of RadLex's two namespaces, definitions, sources, and
namespaces as entities. It is loaded in a process of its own, so that its peak of memory is the loader's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

HEAD = """<?xml version="1.0"?>
<!DOCTYPE rdf:RDF [
  <!ENTITY owl "http://www.w3.org/2002/07/owl#" >
  <!ENTITY rid "http://www.radlex.org/RID/" >
]>
<rdf:RDF xmlns="http://www.radlex.org/RID/" xmlns:RID="http://radlex.org/RID/" xmlns:owl="http://www.w3.org/2002/07/owl#"
  xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:rdfs="http://www.w3.org/2000/01/rdf-schema#">
<owl:Ontology rdf:about="http://www.radlex.org/RID/"/>
"""
CLASS = """<owl:Class rdf:about="&rid;RID{i}">
  <rdfs:label xml:lang="en">made up finding number {i}</rdfs:label>
  <rdfs:subClassOf rdf:resource="&rid;RID{parent}"/>
  <Preferred_name xml:lang="en">made up finding number {i}</Preferred_name>
  <Definition xml:lang="en">{definition}</Definition>
  <Source>{definition}</Source>
</owl:Class>
"""
DESCRIPTION = """<rdf:Description rdf:about="http://{host}/RID/RID{i}">
  <rdfs:label xml:lang="de">erdachter Befund Nummer {i}</rdfs:label>
  <RID:Synonym xml:lang="en">invented observation {i}</RID:Synonym>
</rdf:Description>
"""
FINDING = 34785


def write_owl(path: Path, n_classes: int) -> None:
    """A tree of classes in which a tenth lies below the clinical findings."""
    definition = "A sentence that stands for the definitions and sources of the real file. " * 6
    with path.open("w", encoding="utf-8") as out:
        out.write(HEAD)
        ids = [i for i in range(1, n_classes + 1) if i != FINDING]
        out.write(CLASS.format(i=FINDING, parent=1, definition=definition))
        for i in ids[: n_classes - 1]:
            parent = FINDING if i % 10 == 0 else max(i // 7, 1)
            out.write(CLASS.format(i=i, parent=parent if i > 1 else 0, definition=definition))
        for i in [*ids[: n_classes - 1], FINDING]:
            out.write(DESCRIPTION.format(i=i, host="radlex.org" if i % 2 else "www.radlex.org"))
        out.write("</rdf:RDF>\n")


def _load(path: str, results: multiprocessing.SimpleQueue) -> None:
    from popclust.reports.lexicon import load_lexicon

    start = time.perf_counter()
    lexicon = load_lexicon(path)
    seconds = time.perf_counter() - start
    n_german = sum(name.language == "de" for concept in lexicon.concepts for name in concept.names)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.put({"n_terms": len(lexicon.concepts), "n_german": n_german, "seconds": seconds, "peak_mb": megabytes})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--classes", type=int, default=46_900)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "radlex.owl"
        write_owl(path, options.classes)
        context = multiprocessing.get_context("spawn")
        results = context.SimpleQueue()
        child = context.Process(target=_load, args=(str(path), results))
        child.start()
        figures = {"n_classes": options.classes, "file_mb": path.stat().st_size / 2**20, **results.get()}
        child.join()
    print(json.dumps(figures) if options.json else "\n".join(f"{k:12s} {v:.4g}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
