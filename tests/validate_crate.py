"""A process of its own for rocrate-validator: it prints what an RO-Crate lacks of a Workflow Run Crate, as JSON.

The validator asks the web for the context of RO-Crate 1.1, which ro-crate-py carries: here nothing is asked of the web.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import requests
import rocrate
from rocrate_validator import models, services
from rocrate_validator.utils.http import HttpRequester

CONTEXT = Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld"


def get(self: HttpRequester, url: str, **_: Any) -> requests.Response:
    answer = requests.Response()
    answer.status_code = 200 if url == "https://w3id.org/ro/crate/1.1/context" else 404
    answer.headers["Content-Type"], answer._content = "application/ld+json", CONTEXT.read_bytes()
    return answer


def issues(crate: str) -> list[str]:
    settings = services.ValidationSettings(
        rocrate_uri=crate, profile_identifier="workflow-run-crate", requirement_severity=models.Severity.REQUIRED
    )
    return [str(i.message) for i in services.validate(settings).get_issues(models.Severity.REQUIRED)]


if __name__ == "__main__":
    HttpRequester.get = HttpRequester.head = get
    print(json.dumps([issues(crate) for crate in sys.argv[1:]]))
