"""What a paper has to say of a study, read off the study: a paragraph, numbers, settings and versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from popclust import settings
from popclust.errors import InputError
from popclust.population.vocabulary import FOCAL
from popclust.presentation.run_cards import last_card
from popclust.presentation.view import StudyView, read_store, read_view
from popclust.settings_types import Kind
from popclust.study import Study

_DESCRIBED = {
    "haralick": "histograms of texture words",
    "sift": "histograms of 3D-SIFT words",
    "concatenated": "histograms of texture and 3D-SIFT words",
    "lda": "shares of topics",
}


@dataclass(frozen=True)
class Methods:
    """Text and tables for a paper."""

    paragraph: str
    """What was done and found, in sentences."""
    numbers: Mapping[str, Any]
    """The numbers that the sentences name, and more."""
    settings: pd.DataFrame
    """Columns setting, value, default (whether it is), unit, meaning: of the run, those that shape results."""
    versions: Mapping[str, str]
    """Of popclust, Python and the packages that compute."""
    warnings: tuple[str, ...]
    """What may make the text untrue of the study as it is now."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "settings": self.settings.to_dict("records"), "warnings": list(self.warnings)}

    def as_markdown(self) -> str:
        """For a manuscript."""
        changed = self.settings[~self.settings["default"]]
        parts = [f"> {line}" for line in self.warnings]
        parts += ["## Methods", self.paragraph]
        parts += ["## Numbers", _grid(("", ""), [(k.replace("_", " "), _shown(v)) for k, v in self.numbers.items()])]
        parts += [f"## Settings\n\n{len(changed)} of {len(self.settings)} settings are not the default."]
        parts += [_grid(("setting", "value", "unit", "default", "meaning"), _setting_rows(self.settings))]
        parts += ["## Versions", _grid(("", ""), list(self.versions.items()))]
        return "\n\n".join(parts) + "\n"


def methods(study: Study) -> Methods:
    """Text and tables for a paper, from the run card, the tables and the stores of a study.

    Raises
    ------
    InputError
        There has been no run, or no grouping is reported yet.
    """
    card, view = last_card(study), read_view(study)
    if view.reported is None:
        raise InputError(f"{study.url}: no grouping is reported yet; `popclust run {study.url}` comes to it")
    numbers, chosen = _numbers(view), card["settings"]
    versions = {"popclust": str(card["popclust"]), "Python": str(card["python"]), **card["packages"]}
    sentences = [*_cohort_said(numbers), *_images_said(numbers, chosen), *_groups_said(numbers, chosen)]
    sentences += _tests_said(numbers, chosen)
    sentences.append(f"popclust {versions['popclust']} was used with Python {versions['Python']}.")
    return Methods(" ".join(sentences), numbers, _settings_of(chosen), versions, tuple(_doubts(view, card)))


# -- numbers -----------------------------------------------------------------------------------------------------------


def _numbers(view: StudyView) -> dict[str, Any]:
    included = view.cohort[view.cohort["included"].astype(bool)]
    grouped = included[included["volume_id"].isin(view.groups["volume_id"])]
    words, reported = read_store(view.study, "word_counts"), view.reported
    topics = read_store(view.study, "topics")
    out: dict[str, Any] = {
        "n_series_seen": len(view.cohort),
        "n_volumes_included": len(included),
        "n_volumes_registered": len(view.quality),
        "n_volumes_grouped": len(grouped),
        "n_patients_grouped": int(grouped["patient_id"].nunique()),
        "n_in_quarantine": int(view.quarantine["volume_id"].nunique()),
        **_persons(grouped),
        **_scanners(grouped),
        "n_words": {} if words is None else _counted(words["vocabulary"].to_numpy()),
        "n_topics": 0 if topics is None else int(topics.sizes["topic"]),
    }
    if reported is not None:
        sizes = view.groups["cluster"].value_counts()
        out |= {"descriptor": reported.descriptor, "n_groups": reported.n_clusters, "seed": reported.seed}
        out |= {"smallest_group": int(sizes.min()), "largest_group": int(sizes.max())}
        out["median_stability"] = round(float(view.groups["stability"].median()), 3)
        out["has_groups"] = view.record.get("has_groups")
    return out | _tests(view)


def _persons(grouped: pd.DataFrame) -> dict[str, Any]:
    persons = grouped.sort_values("volume_id").drop_duplicates("patient_id")
    low, middle, high = persons["age_years"].quantile([0.25, 0.5, 0.75])
    age = {
        "n_ages": int(persons["age_years"].count()),
        "age_years_median": _round(middle),
        "age_years_quartiles": [_round(low), _round(high)],
    }
    return {**age, "n_female": int((persons["sex"] == "F").sum()), "n_male": int((persons["sex"] == "M").sum())}


def _scanners(grouped: pd.DataFrame) -> dict[str, Any]:
    thickness = grouped["slice_thickness_mm"]
    named = grouped[["manufacturer", "model"]].dropna(how="all")
    return {
        "n_scanner_models": len(named.drop_duplicates()),
        "n_volumes_of_named_scanners": len(named),
        "manufacturers": _counted(grouped["manufacturer"]),
        "n_kernels": int(grouped["kernel"].nunique()),
        "slice_thickness_mm_range": [_round(thickness.min()), _round(thickness.max())],
    }


def _tests(view: StudyView) -> dict[str, Any]:
    tests = view.reported_associations()
    if tests.empty or view.reported is None:
        return {"n_reports": len(view.reports), "Q": None}
    found = tests[tests["p_holm"] <= view.alpha]
    row = view.reported.of(view.criterion).iloc[0]
    out = {
        "n_reports": len(view.reports),
        "languages": _counted(view.reports["language"]),
        "unit": str(view.record["unit"]),
        "n_units_with_report": int(tests["B"].max()),
        "min_term_count": int(view.record["min_term_count"]),
        "n_terms_tested": int(tests["term_id"].nunique()),
        "Q": len(found),
        "n_more_often": int((found["direction"] > 0).sum()),
        "n_less_often": int((found["direction"] < 0).sum()),
        "Q_null_mean": _round(row["Q_null_mean"]),
        "p_value_selected": _round(row["p_value_selected"], 4),
    }
    if view.gate is not None and len(view.gate):
        out["outcomes_within_strata"] = _counted(view.gate["outcome"])
    return out


def _counted(values: Any) -> dict[str, int]:
    series = pd.Series(values).dropna()
    counts = series.astype(str).value_counts()
    return {str(k): int(counts[k]) for k in sorted(counts.index)}


def _round(value: Any, digits: int = 2) -> float | None:
    return None if pd.isna(value) else round(float(value), digits)


# -- sentences ---------------------------------------------------------------------------------------------------------


def _cohort_said(n: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"Of {n['n_series_seen']:,} CT series seen, {n['n_volumes_included']:,} met the inclusion rules, and "
        f"{n['n_volumes_grouped']:,} volumes of {n['n_patients_grouped']:,} patients were registered well enough to be "
        "grouped."
    )
    known = n["n_female"] + n["n_male"]
    if n["age_years_median"] is not None and known:
        low, high = n["age_years_quartiles"]
        known_of = "" if n["n_ages"] == n["n_patients_grouped"] else f", known of {n['n_ages']:,}"
        yield (
            f"Patients were {n['age_years_median']:g} years old in the median "
            f"(quartiles {low:g} and {high:g}{known_of}); {n['n_female']:,} of {known:,} whose sex is known were women."
        )
    makers = ", ".join(f"{maker} ({count:,})" for maker, count in n["manufacturers"].items()) or "unknown makers"
    low, high = n["slice_thickness_mm_range"]
    slices = "" if low is None else f", slices of {low:g} to {high:g} mm"
    n_unknown = n["n_volumes_grouped"] - n["n_volumes_of_named_scanners"]
    unnamed = f"; the scanner of {n_unknown:,} is not known" if n_unknown else ""
    yield f"The volumes came from {n['n_scanner_models']} scanner models ({makers}){slices}{unnamed}."


def _images_said(n: Mapping[str, Any], s: Mapping[str, Any]) -> Iterator[str]:
    if s["normalize"]["transforms"] == "given":
        yield "Known transforms took each volume to the atlas; nothing was registered."
    else:
        yield (
            f"Each volume was registered to an atlas of {s['atlas']['spacing_mm']:g} mm through the best of several "
            f"templates with elastix (B-splines of {s['normalize']['grid_spacing_mm']:g} mm, "
            f"{s['normalize']['n_resolutions']} resolutions) and accepted by frozen limits of quality."
        )
    haralick, sift = s["haralick"], s["sift"]
    yield (
        f"Within the lungs, Haralick texture was computed in cubes of {haralick['window_mm']:g} mm every "
        f"{haralick['step_mm']:g} mm ({haralick['n_levels']} grey levels) and 3D-SIFT descriptors by "
        f"{sift['sampling']} sampling."
    )
    words = ", ".join(f"{count} {name}" for name, count in n["n_words"].items() if name != FOCAL)
    yield (
        f"Visual words ({words}) and texture samples near focal densities were counted per volume and summarised as "
        f"{n['n_topics']} topics by latent Dirichlet allocation."
    )


def _groups_said(n: Mapping[str, Any], s: Mapping[str, Any]) -> Iterator[str]:
    cluster, chosen = s["cluster"], s["associate"]["choose_by"]
    low, high = cluster["n_clusters_min"], cluster["n_clusters_max"]
    how = {
        "prediction": "by what the groups foretell of reports that were left out",
        "Q": "by the number of significant associations",
    }.get(chosen, f"by {chosen}")
    described = _DESCRIBED.get(n["descriptor"], n["descriptor"])
    yield (
        f"Volumes were grouped by k-means on {described} for K from {low} to at most {high} with "
        f"{len(cluster['seeds'])} seeds."
    )
    if n["Q"] is not None:
        yield f"K was chosen {how}."
    yield (
        f"{n['n_groups']} groups of {n['smallest_group']:,} to {n['largest_group']:,} volumes are reported (seed "
        f"{n['seed']}, median stability {n['median_stability']:g})."
    )
    if n["has_groups"] is False:
        yield "No groups: populations of one kind cut into as many pieces are as compact."
    elif n["has_groups"]:
        yield "They are more compact than populations of one kind that are cut into as many pieces."


def _tests_said(n: Mapping[str, Any], s: Mapping[str, Any]) -> Iterator[str]:
    if n["Q"] is None:
        yield "No reports were tested against the groups."
        return
    units = {"patient": "patients, one volume each", "volume": "volumes"}[n["unit"]]
    yield (
        f"Terms in the reports of {n['n_units_with_report']:,} {units} were tested against the groups by two-sided "
        f"Fisher's exact tests with Holm's correction over the groups of a term at {s['associate']['alpha']:g}; "
        f"{n['n_terms_tested']} terms in at least {n['min_term_count']} units were tested."
    )
    null = ""
    if n["p_value_selected"] is not None and n["Q_null_mean"] is not None:
        null = (
            f" ({n['Q_null_mean']:g} expected by chance; p = {n['p_value_selected']:g} over "
            f"{s['associate']['n_permutations']:,} permutations that repeat the choice of K)"
        )
    yield (
        f"{n['Q']} associations were significant{null}, {n['n_more_often']} positive and {n['n_less_often']} negative."
    )
    if outcomes := n.get("outcomes_within_strata"):
        said = ", ".join(f"{count} {name}" for name, count in outcomes.items())
        yield f"Within strata of the technical variables they came out as follows: {said}."


# -- settings and doubts -----------------------------------------------------------------------------------------------


def _settings_of(of_run: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    rows = [
        {
            "setting": d.full_name,
            "value": of_run[d.section][d.name],
            "default": of_run[d.section][d.name] == (list(d.default) if isinstance(d.default, tuple) else d.default),
            "unit": d.unit,
            "meaning": d.meaning,
        }
        for d in settings.ALL
        if d.kind is Kind.RESULT and d.name in of_run.get(d.section, {})
    ]
    return pd.DataFrame(rows, columns=["setting", "value", "default", "unit", "meaning"])


def _doubts(view: StudyView, card: Mapping[str, Any]) -> Iterator[str]:
    if card["state"] != "ended":
        yield f"The last run was {card['state']} before its end: parts of the study may be older than this text."
    now = settings.to_dict(view.study.settings)
    kinds = {(d.section, d.name): d.kind for d in settings.ALL}
    changed = [
        f"{section}.{name}"
        for section, values in card["settings"].items()
        for name, value in values.items()
        if kinds.get((section, name)) is Kind.RESULT and now[section][name] != value
    ]
    if changed:
        yield f"study.toml has changed since the run ({', '.join(changed)}): run again before this is printed."


def _setting_rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    return [
        (f"`{r.setting}`", f"`{_shown(r.value)}`", r.unit, "yes" if r.default else "**no**", r.meaning)
        for r in table.itertuples()
    ]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value)
    return "" if value is None else str(value)


def _grid(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
