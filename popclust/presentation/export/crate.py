"""The export as a Workflow Run RO-Crate: what ran, with what settings, and what came of it.

Of the profile https://w3id.org/ro/wfrun/workflow/0.5. Files by volume are named by their folder, not one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

from popclust.parts import canonical

_WORKFLOW_CRATE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    _WORKFLOW_CRATE: ("Workflow RO-Crate", "1.0"),
}
_BIOSCHEMAS = "https://bioschemas.org/profiles"
_TERMS = {name: f"https://w3id.org/ro/terms/workflow-run#{name}" for name in ("containerImage", "environment")}
README = "README.md"
_METADATA = "ro-crate-metadata.json"
_WORKFLOW = "workflow/pipeline.py"
_SETTINGS = "run/settings.json"
_CARD = "run/run_card.json"
_JSON = "application/json"
_OWNER = "#owner"
Entity = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """A file or folder of the export."""

    path: str
    """Relative to the crate; a folder ends with a slash."""
    name: str
    """What it is called."""
    doc: str
    """What it holds."""
    format: str = ""
    """Media type; empty for a folder."""

    @property
    def is_folder(self) -> bool:
        """Whether it is one."""
        return self.path.endswith("/")


def write_crate(folder: Path, card: Mapping[str, Any], results: Iterable[Result]) -> None:
    """Write the run card, its settings, the workflow and the metadata that ties all together.

    Parameters
    ----------
    folder : Path
        The export, with all results written.
    card : mapping
        A run card.
    results : iterable of Result
        Files and folders of the export.
    """
    source = resources.files("popclust").joinpath("dataflow", "pipeline.py").read_bytes()
    for path, data in {
        _WORKFLOW: source,
        _CARD: canonical(dict(card), indent=1),
        _SETTINGS: canonical(card["settings"], indent=1),
    }.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(data)
    context = ["https://w3id.org/ro/crate/1.1/context", _TERMS]
    graph = _graph(folder, card, list(results))
    metadata = json.dumps({"@context": context, "@graph": graph}, indent=1, ensure_ascii=False)
    (folder / _METADATA).write_text(metadata + "\n")


def ended_at(card: Mapping[str, Any]) -> datetime:
    """When the run of a card ended."""
    return _moment(str(card["run_id"])) + timedelta(seconds=float(card["seconds"]))


def _graph(folder: Path, card: Mapping[str, Any], results: list[Result]) -> list[Entity]:
    settings = Result(_SETTINGS, "settings", "every setting of the run; of places only whether they are given", _JSON)
    run_card = Result(_CARD, "run card", "versions, seeds, hashes of inputs, counts and times", _JSON)
    given, made = [settings], [run_card, *results]
    files = [_file(folder, r) for r in (*given, *made)]
    return [
        {
            "@id": _METADATA,
            "@type": "CreativeWork",
            "about": _ref("./"),
            "conformsTo": [_ref("https://w3id.org/ro/crate/1.1"), _ref(_WORKFLOW_CRATE)],
        },
        _root(card, files),
        *({"@id": i, "@type": "CreativeWork", "name": n, "version": v} for i, (n, v) in _PROFILES.items()),
        _workflow(card, given, made),
        *(_parameter(r) for r in (*given, *made)),
        *files,
        _action(card, given, made),
        *_surroundings(card),
    ]


def _root(card: Mapping[str, Any], parts: list[Entity]) -> Entity:
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": f"popclust run {card['run_id']}",
        "description": "Groups of patients found in routine CT without labels, exported from a popclust study.",
        "datePublished": _ended(card),
        "license": _ref("#licence"),
        "author": _ref(_OWNER),
        "publisher": _ref(_OWNER),
        "conformsTo": [_ref(i) for i in _PROFILES],
        "mainEntity": _ref(_WORKFLOW),
        "mentions": _ref("#run"),
        "hasPart": [_ref(_WORKFLOW), *(_ref(p["@id"]) for p in parts)],
    }


def _workflow(card: Mapping[str, Any], given: list[Result], made: list[Result]) -> Entity:
    return {
        "@id": _WORKFLOW,
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
        "conformsTo": _ref(f"{_BIOSCHEMAS}/ComputationalWorkflow/1.0-RELEASE"),
        "name": "popclust",
        "description": "The order of the stages: " + ", ".join(s["stage"] for s in card["stages"]) + ".",
        "version": str(card["popclust"]),
        "encodingFormat": "text/x-python",
        "license": "https://spdx.org/licenses/BSD-3-Clause",
        "programmingLanguage": _ref("#python"),
        "creator": _ref(_OWNER),
        "dateCreated": _started(card),
        "input": _refs(_of(r) for r in given),
        "output": _refs(_of(r) for r in made),
        "softwareRequirements": _refs(_package(*item) for item in sorted(card["packages"].items())),
    }


def _parameter(result: Result) -> Entity:
    return {
        "@id": _of(result),
        "@type": "FormalParameter",
        "conformsTo": _ref(f"{_BIOSCHEMAS}/FormalParameter/1.0-RELEASE"),
        "name": result.name,
        "description": result.doc,
        "additionalType": "Dataset" if result.is_folder else "File",
        "workExample": _ref(result.path),
    }


def _action(card: Mapping[str, Any], given: list[Result], made: list[Result]) -> Entity:
    is_whole = card["state"] == "ended"
    return {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"popclust run {card['run_id']}",
        "description": f"One run of the flow on {card['n_workers']} Dask workers.",
        "instrument": _ref(_WORKFLOW),
        "agent": _ref(_OWNER),
        "startTime": _started(card),
        "endTime": _ended(card),
        "actionStatus": f"http://schema.org/{'Completed' if is_whole else 'Failed'}ActionStatus",
        "object": _refs(r.path for r in given),
        "result": _refs(r.path for r in made),
        **({} if is_whole else {"error": f"the run was {card['state']}"}),
    }


def _surroundings(card: Mapping[str, Any]) -> list[Entity]:
    python = "https://www.python.org"
    packages = [
        {"@id": _package(name, version), "@type": "SoftwareApplication", "name": name, "softwareVersion": version}
        for name, version in sorted(card["packages"].items())
    ]
    language = {"@id": "#python", "@type": "ComputerLanguage", "name": "Python", "version": card["python"]}
    return [
        *packages,
        {**language, "url": python, "identifier": python},
        {"@id": _OWNER, "@type": "Organization", "name": "Holder of the study"},
        {
            "@id": "#licence",
            "@type": "CreativeWork",
            "name": "Not licensed",
            "description": "Data of patients under pseudonyms: the holder of the study decides on its use.",
        },
    ]


def _file(folder: Path, result: Result) -> Entity:
    entity: Entity = {"@id": result.path, "name": result.name, "description": result.doc}
    entity["exampleOfWork"] = _ref(_of(result))
    if result.is_folder:
        return {**entity, "@type": "Dataset"}
    about = {"about": _ref("./")} if result.path == README else {}
    size = str((folder / result.path).stat().st_size)
    return {**entity, **about, "@type": "File", "encodingFormat": result.format, "contentSize": size}


def _started(card: Mapping[str, Any]) -> str:
    return _moment(str(card["run_id"])).isoformat(timespec="seconds")


def _ended(card: Mapping[str, Any]) -> str:
    return ended_at(card).isoformat(timespec="seconds")


def _moment(run_id: str) -> datetime:
    return datetime.strptime(run_id, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)


def _package(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}"


def _of(result: Result) -> str:
    """Name of what a result is an example of."""
    return "#" + result.name.replace(" ", "-")


def _ref(identifier: str) -> Entity:
    return {"@id": identifier}


def _refs(identifiers: Iterable[str]) -> Entity | list[Entity]:
    """References; of one the reference itself."""
    found = [_ref(i) for i in identifiers]
    return found[0] if len(found) == 1 else found
