"""The summary: one self-contained page on a study, that needs no network and names no patient."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from popclust.presentation import first_screen
from popclust.presentation import summary_content as content
from popclust.presentation.banners import banners
from popclust.presentation.captions import Caption, read_captions
from popclust.presentation.figures import funnel_of
from popclust.presentation.trust import trust_rows
from popclust.presentation.view import StudyView, read_view
from popclust.study import Study

MAX_IMAGE_BYTES = 70_000
"""Larger pictures are compressed with losses on the page; the study's figures/ keep them whole."""
MAX_GROUPS = 64
"""Profiles shown at most."""

_RESOURCES = resources.files("popclust.presentation")


@dataclass(frozen=True)
class Embedded:
    """A figure on the page."""

    caption: Caption
    """Its words."""
    data_uri: str
    """The image itself."""
    width: int
    """In CSS pixels."""
    height: int
    """In CSS pixels."""


def write_summary(study: Study, run_card: Mapping[str, Any]) -> str:
    """Write summary/index.html from the study's tables and the figures that `write_figures` left.

    Parameters
    ----------
    study : Study
        Tables that are missing (no reports, say) are said to be so.
    run_card : mapping
        The run's card, as far as it goes; unknown parts are left out.

    Returns
    -------
    str
        URL of the page.
    """
    view = read_view(study)
    captions = read_captions(study)
    left_out = {f"{kind}_{k:02d}" for kind in ("group", "card") for k in range(MAX_GROUPS, view.n_groups)}
    figures = {c.name: _embedded(study, c) for c in captions if c.name not in left_out}
    study.write_bytes(render(view, run_card, figures).encode(), "summary", "index.html")
    return study.path("summary", "index.html")


def render(view: StudyView, run_card: Mapping[str, Any], figures: Mapping[str, Embedded]) -> str:
    """The page as text. Every value is escaped; scripts other than the page's own are refused by its policy."""
    style, script = (_RESOURCES.joinpath(name).read_text("utf-8") for name in ("summary.css", "summary.js"))
    funnel = funnel_of(view)
    tests = view.reported_associations()
    n_found = int((tests["p_holm"] <= view.alpha).sum())
    return _environment().from_string(_RESOURCES.joinpath("summary.html").read_text("utf-8")).render(
        title=PurePosixPath(view.study.url).name,
        style=Markup(style),  # the package's own file
        script=Markup(script),
        style_hash=policy_hash(style),
        script_hash=policy_hash(script),
        headline=content.headline(view),
        verdict=content.verdict(view),
        standing=first_screen.standing(view),
        population=first_screen.population(view),
        made_on=first_screen.made_on(run_card),
        banners=banners(view),
        funnel=funnel,
        losses=funnel.losses[: content.MAX_ROWS],
        figures=figures,
        profiles=_of(figures, "group_"),
        cards=_of(figures, "card_"),
        topics=_of(figures, "topic_"),
        words=_of(figures, "words_"),
        groups=content.group_rows(view),
        how_grouped=content.how_grouped(view),
        associations=content.association_rows(view),
        trust=trust_rows(view.study) if len(view.criterion) else [],
        n_found=n_found,
        is_gated=view.gate is not None,
        has_tests=not tests.empty,
        has_reports=not view.reports.empty,
        alpha=view.alpha,
        reported=view.reported,
        unit=str(view.record.get("unit", "")),
        settings=content.changed_settings(view.study.settings),
        seeds=content.seeds(view.study.settings),
        run=content.run_facts(run_card),
        stages=[dict(s) for s in run_card.get("stages", [])],
        packages=dict(run_card.get("packages", {})),
        inputs=dict(run_card.get("inputs", {})),
        duration=content.duration,
    )  # fmt: skip


def _of(figures: Mapping[str, Embedded], kind: str) -> list[Embedded]:
    """The figures of a kind, in their order."""
    return [f for name, f in figures.items() if name.startswith(kind)]


def _environment() -> jinja2.Environment:
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def policy_hash(text: str) -> str:
    """What a Content-Security-Policy names an inline script or style by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _embedded(study: Study, caption: Caption) -> Embedded:
    """The figure as a data URI: lines and text as SVG, pictures as PNG, large ones as WebP."""
    png = study.read_bytes("figures", f"{caption.name}.png")
    svg = study.read_bytes("figures", f"{caption.name}.svg")
    with Image.open(io.BytesIO(png)) as image:
        width, height = image.size
        has_pictures = b"<image" in svg
        if not has_pictures and len(svg) <= MAX_IMAGE_BYTES:
            kind, data = "svg+xml", svg
        elif len(png) <= MAX_IMAGE_BYTES:
            kind, data = "png", png
        else:
            sink = io.BytesIO()
            image.convert("RGB").save(sink, "WEBP", quality=88)
            kind, data = "webp", sink.getvalue()
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Embedded(caption, uri, round(width / 1.3), round(height / 1.3))
