"""What a person sees of the explorer: what stands out on a map, which slices are shown, where the keyboard is."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from chromium import Page
from explorer_served import FOCUS, IMAGES, around, figure_places, pixels_of, seen, until
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from popclust.presentation import explorer_data as data

MAP, SECOND, MATRIX = "near volumes look alike", "the same volumes", "terms against groups"
RING = (212, 0, 106)


# -- what is seen of a map -----------------------------------------------------------------------------------------


def places_of(tab: Page, explored: data.Explored, title: str = MAP) -> list[tuple[float, float]]:
    """Where each volume is on the screen."""
    return figure_places(tab, title, explored.volumes[["x", "y"]].to_numpy().tolist())


def alone(places: list[tuple[float, float]], apart: float = 12) -> set[int]:
    """Volumes that no other lies upon, nor near."""
    at = np.array(places)
    off = np.linalg.norm(at[:, None] - at[None], axis=2) + 99 * np.eye(len(at))
    return set(np.flatnonzero(off.min(axis=1) > apart).tolist())


def standing_out(tab: Page, explored: data.Explored, looks: pd.DataFrame, title: str = MAP) -> set[int]:
    """Of the volumes that are alone, those whose colour on the screen is their own in full; others are pale."""
    places = places_of(tab, explored, title)
    picture = seen(tab)
    return {i for i in alone(places) if is_coloured(around(picture, places[i], 2), looks["colour"][i])}


def is_coloured(pixels: NDArray[np.uint8], colour: str | tuple[int, int, int]) -> bool:
    """Whether any pixel has the colour."""
    wanted = colour if isinstance(colour, tuple) else tuple(round(255 * v) for v in to_rgb(colour))
    return bool((np.abs(pixels.astype(int) - wanted).max(axis=-1) <= 3).any())


def ringed(tab: Page, explored: data.Explored, title: str = MAP) -> set[int]:
    """Volumes with a patient's ring around them: left and right, above and below."""
    places = places_of(tab, explored, title)
    picture = seen(tab)
    sides = ((-7.5, 0), (7.5, 0), (0, -7.5), (0, 7.5))

    def is_ringed(x: float, y: float) -> bool:
        return all(is_coloured(around(picture, (x + right, y + down), 3), RING) for right, down in sides)

    return {i for i, place in enumerate(places) if is_ringed(*place)}


def slices(tab: Page) -> dict[str, NDArray[np.uint8]]:
    """The pictures in sight: what is said of each (plane first), and its pixels."""
    shown = f"{IMAGES}.filter((i) => i.naturalWidth === 230 && i.checkVisibility({{ visibilityProperty: true }}))"
    return {alt: pixels_of(src.split(",")[1]) for alt, src in tab.evaluate(f"{shown}.map((i) => [i.alt, i.src])")}


def click_volume(tab: Page, explored: data.Explored, index: int) -> dict[str, NDArray[np.uint8]]:
    """Click a volume on the map; its slices, once they are all there."""
    tab.click(*places_of(tab, explored)[index])
    return slices_that(tab, str(explored.volumes["volume_id"][index]))


def slices_that(tab: Page, say: str) -> dict[str, NDArray[np.uint8]]:
    """The three pictures, by plane, once each says so."""
    until(lambda: [say in alt for alt in slices(tab)] == [True] * 3, f"three slices: {say}")
    return {alt.split()[0]: pixels for alt, pixels in slices(tab).items()}


def changed(old: dict[str, NDArray[np.uint8]], new: dict[str, NDArray[np.uint8]]) -> set[str]:
    return {plane for plane in old if (old[plane] != new[plane]).any()}


def is_painted(plain: NDArray[np.uint8], picture: NDArray[np.uint8], colour: str) -> bool:
    """Whether a colour lies on a grey picture somewhere."""
    mixed = 0.45 * plain + 0.55 * 255 * np.array(to_rgb(colour))
    return bool((np.abs(picture - mixed).max(axis=2) <= 2).any())


# -- the keyboard ------------------------------------------------------------------------------------------------------


IN_TABLE = """(() => { let n = document.activeElement;
  while (n && !n.className.includes?.("bk-DataTable")) n = n.shadowRoot?.activeElement;
  return Boolean(n); })()"""


def named(name: str) -> str:
    """Whether what is called so has the keyboard: JavaScript."""
    return f"{FOCUS} === {json.dumps(name)}"


def go_to(tab: Page, wanted: str) -> None:
    """Press Tab until it is so: JavaScript."""
    for _ in range(80):
        tab.press("Tab", 9)
        if tab.evaluate(wanted):
            return
    raise AssertionError(f"never reached: {wanted}")
