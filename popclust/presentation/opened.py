"""A study as an analyst has it in hand: what is reported, with its groups in words and its figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from popclust.errors import InputError
from popclust.presentation.captions import Caption, read_captions
from popclust.reported import Reported
from popclust.study import Study

_MAX_TERMS = 5


@dataclass(frozen=True)
class Picture:
    """A figure as the run drew it; a notebook shows it."""

    caption: Caption
    """Its words."""
    png: bytes
    """The picture."""

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        return f"<Picture {self.caption.name}: {self.caption.title}. {self.caption.alt}>"

    def save(self, path: str | Path) -> None:
        """Write the picture as PNG."""
        Path(path).write_bytes(self.png)


class Figures:
    """Figures of a study, by name: ``figures.map()``; `dir` and iteration name them."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._captions = {c.name: c for c in read_captions(study)}

    def __getitem__(self, name: str) -> Picture:
        """A figure by its name.

        Raises
        ------
        InputError
            There is none of that name.
        """
        if name not in self._captions:
            there = ", ".join(self._captions) or "none: `popclust summarize` draws them"
            raise InputError(f"{self._study.url}: there is no figure {name!r}; there are {there}")
        return Picture(self._captions[name], self._study.read_bytes("figures", f"{name}.png"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._captions:
            raise AttributeError(f"there is no figure {name!r}; there are {', '.join(self._captions) or 'none yet'}")
        return lambda: self[name]

    def __dir__(self) -> list[str]:
        return [*self._captions]

    def __iter__(self) -> Iterator[str]:
        return iter(self._captions)

    def __len__(self) -> int:
        return len(self._captions)

    def __repr__(self) -> str:
        return f"<Figures: {', '.join(self._captions) or 'none yet'}>"


@dataclass(frozen=True, repr=False, kw_only=True)
class ReportedInHand(Reported):
    """The grouping that a study reports, with its groups in words and its figures."""

    figures: Figures
    """What the run drew."""

    @property
    def groups(self) -> pd.DataFrame:
        """One row per group, the largest first.

        Returns
        -------
        DataFrame
            Index cluster; columns n_volumes, share, stability (median), more_often and less_often: the terms of its
            significant associations, the smallest p first.
        """
        clusters = self.clusters.groupby("cluster")
        out = pd.DataFrame({"n_volumes": clusters.size(), "stability": clusters["stability"].median()})
        out.insert(1, "share", out["n_volumes"] / len(self.clusters))
        for name, direction in {"more_often": 1, "less_often": -1}.items():
            found = self.associations[self.associations["direction"] == direction].sort_values("p_holm", kind="stable")
            terms = found.groupby("cluster")["term"].agg(lambda t: ", ".join(t.astype(str).head(_MAX_TERMS)))
            out[name] = terms.reindex(out.index).fillna("").astype(object)
        return out


@dataclass(frozen=True, repr=False)
class OpenedStudy(Study):
    """A study whose `reported` has figures too."""

    @property
    def reported(self) -> ReportedInHand:
        """The grouping that is reported, with its groups, associations, tests and figures.

        Raises
        ------
        InputError
            There is none yet.
        """
        found = super().reported
        known = {f.name: getattr(found, f.name) for f in fields(found)}
        return ReportedInHand(**known, figures=Figures(self))
