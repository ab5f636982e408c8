"""The card of the run that a study is shown by."""

from __future__ import annotations

from typing import Any

from popclust import storage
from popclust.errors import InputError
from popclust.study import Study


def last_card(study: Study) -> dict[str, Any]:
    """The run card of the last run that came to its end, of the last run where none did.

    Raises
    ------
    InputError
        There has been no run.
    """
    names = [n for n in storage.names(study.path("runs")) if n.endswith("Z.json")]  # by name, which is by time
    cards = [study.read_json("runs", name) for name in names]
    if not cards:
        raise InputError(f"{study.url}: no run has left its card here; `popclust run {study.url}` makes one")
    whole = [card for card in cards if card["state"] == "ended"]
    return dict((whole or cards)[-1])
