"""The explorer on a telephone."""

from __future__ import annotations

from chromium import browser
from explorer_seen import MAP, SECOND, alone, click_volume, places_of
from explorer_served import LEGEND, NAME_OF, PARTS, choose, figure_places, in_sight, open_explorer, served, turn_to

from popclust.presentation import explorer_data as data
from popclust.study import Study


def test_on_a_telephone_all_is_in_one_column_and_nothing_is_wider(worded: Study) -> None:
    explored = data.read_explored(worded)
    kinds = "/^(IMG|INPUT|SELECT|BUTTON|P|TH|TD)$|bk-(Figure|tab|label|Slider)\\b/"
    seen_at = f"""{PARTS}.filter((n) => {kinds}.test(n.tagName) || {kinds}.test(n.className?.toString?.() ?? ''))
        .filter((n) => n.checkVisibility({{ visibilityProperty: true }}) && n.getBoundingClientRect().width > 0)
        .map((n) => [{NAME_OF}(n), n.getBoundingClientRect().left, n.getBoundingClientRect().right])"""
    with browser(390, 844) as tab, served(worded) as (url, _):
        tab.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        open_explorer(tab, url)
        choose(tab, "colour by", "scanner")
        tab.wait_for(f"{LEGEND}.length === {explored.volumes['scanner'].nunique()}")
        click_volume(tab, explored, min(alone(places_of(tab, explored))))
        for title in ("Matrix", "Volume", "Group", "Selection", "Two groupings"):
            turn_to(tab, title)
            if title == "Group":
                choose(tab, "group", "1")
                tab.wait_for(in_sight("Group 1"))
            assert tab.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
            shown = tab.evaluate(seen_at)
            assert len(shown) > 20 and [one for one in shown if one[1] < 0 or one[2] > 390] == [], title
        first, second = (figure_places(tab, title, [(0.5, 0.5)])[0][0] for title in (MAP, SECOND))
        assert abs(first - second) < 10  # one below the other
        assert tab.errors == []
