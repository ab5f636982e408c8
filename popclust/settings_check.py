"""Settings that are right each by itself and contradict each other."""

from __future__ import annotations

from collections.abc import Iterator

from popclust.errors import InputError
from popclust.settings_learning import EncodeSettings
from popclust.settings_sections import HaralickSettings, Settings

Finding = tuple[str, bool, str]
"""A setting's full name, whether it goes with the others, and what it must do to."""


def check(settings: Settings, where: str = "settings") -> None:
    """Refuse settings that contradict each other, before hours are spent on them.

    Raises
    ------
    InputError
        Names the setting, what is wanted of it and what it is.
    """
    for name, is_right, wanted in (*_of_input(settings), *_of_texture(settings.haralick), *_of_groups(settings)):
        if not is_right:
            section, _, field = name.partition(".")
            value = getattr(getattr(settings, section), field)
            shown = list(value) if isinstance(value, tuple) else value
            raise InputError(f"{where} [{section}] {field}: must {wanted}, got {shown!r}")


def _of_input(settings: Settings) -> Iterator[Finding]:
    atlas, normalize, sift = settings.atlas, settings.normalize, settings.sift
    yield "atlas.volume", bool(atlas.volume or not atlas.templates), "be given where atlas.templates are"
    yield "atlas.templates", atlas.volume not in atlas.templates, "leave out atlas.volume, always a template too"
    is_register = normalize.transforms == "register"
    yield "normalize.given_folder", bool(is_register or normalize.given_folder), "be given where transforms = 'given'"
    is_sparse = sift.sampling != "dense"
    yield "sift.dense_diameters_mm", bool(is_sparse or sift.dense_diameters_mm), "not be empty where sampling = 'dense'"


def _of_texture(haralick: HaralickSettings) -> Iterator[Finding]:
    spacing, levels = haralick.spacing_mm, haralick.n_levels
    yield "haralick.window_mm", haralick.window_mm >= 3 * spacing, f"be 3 voxels ({3 * spacing:g} mm) or more"
    yield "haralick.step_mm", haralick.step_mm >= spacing, f"be 1 voxel ({spacing:g} mm) or more"
    window = max(3, 2 * int(haralick.window_mm / spacing / 2) + 1)  # as popclust.features.haralick rounds it
    fits = all(d < window for d in haralick.distances)
    yield "haralick.distances", fits, f"all be smaller than the window of {window} voxels"
    pairs = sum(3 * window**2 * (window - d) + 6 * window * (window - d) ** 2 for d in haralick.distances)
    pairs += sum(4 * (window - d) ** 3 for d in haralick.distances)
    is_counted = 2 * pairs * levels < 2**31
    yield "haralick.window_mm", is_counted, f"be smaller: {window} voxels with {levels} levels overflow 64 bit sums"


def _of_groups(settings: Settings) -> Iterator[Finding]:
    cluster, descriptor = settings.cluster, settings.associate.descriptor
    n_max = cluster.n_clusters_max
    yield "cluster.n_clusters_min", cluster.n_clusters_min <= n_max, f"not be above n_clusters_max = {n_max}"
    formed = ", ".join(map(repr, cluster.descriptors))
    is_formed = descriptor in ("best", *cluster.descriptors) or (descriptor == "external" and bool(cluster.external))
    yield (
        "associate.descriptor",
        is_formed,
        f"be 'best' or among cluster.descriptors ({formed})"
        + ("; 'external' where cluster.external names its vectors" if descriptor == "external" else ""),
    )
    massless = [d for d in cluster.descriptors if not _mass(d, settings.encode)]
    yield "cluster.descriptors", not massless, f"leave out {', '.join(massless)}, to which encode gives no mass"


def _mass(descriptor: str, encode: EncodeSettings) -> float:
    """Sum of the masses of the words that a descriptor is made of."""
    texture, shape = encode.mass_haralick, encode.mass_micro_sift + encode.mass_macro_sift
    return {"haralick": texture, "sift": shape}.get(descriptor, texture + shape)
