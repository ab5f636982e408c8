"""A volume that has passed one stage goes on to the next at once, while others are still at the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from popclust.dataflow.stage import Stage
from popclust.dataflow.state import State
from popclust.dataflow.window import Outcome, Task
from popclust.parts import Done, marker_of, recipe_digest


@dataclass
class Follower:
    """A stage whose part of a volume needs that volume's part of the stage before, and nothing of other volumes."""

    stage: Stage
    state: State
    recipe: str
    """Digest of its recipe."""
    known: Mapping[str, Done]
    """Its parts that were there before."""
    made: dict[str, Done] = field(default_factory=dict)
    """Parts that it has made."""
    failed: list[str] = field(default_factory=list)
    """Volumes that went to quarantine."""
    seconds: float = 0.0
    """What its tasks took, in all."""
    _wanted: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, stage: Stage, state: State) -> Follower:
        """A follower whose recipe is kept in the study: what it makes will be found again."""
        recipe = stage.recipe(state.study.settings)
        state.study.write_recipe(recipe)
        return cls(stage, state, recipe_digest(recipe), state.markers(stage).done)

    def task_after(self, outcome: Outcome) -> Task | None:
        """What a volume goes on to; None where it does not, or where its part is there already."""
        if outcome.error or outcome.stage or not outcome.value.passes or self.stage.needs_after is None:
            return None
        volume_id = outcome.key
        marker = marker_of(self.recipe, self.stage.needs_after(self.state, volume_id, outcome.value.output))
        there = self.known.get(volume_id)
        if (there and there.marker == marker) or self.state.quarantine.holds(volume_id, self.stage.name, marker):
            return None
        self._wanted[volume_id] = marker
        return Task(volume_id, (self.stage.name, self.recipe, volume_id, marker), self.stage.name)

    def take(self, outcome: Outcome, line: Callable[[str, str], None]) -> None:
        """A part of its own is finished, or has failed."""
        quarantine = self.state.quarantine
        self.seconds += outcome.usage.seconds if outcome.usage else 0.0
        if outcome.error:
            quarantine.add(self.stage.name, outcome, self._wanted[outcome.key])
            self.failed.append(outcome.key)
            line(f"{outcome.key} kept out: {outcome.message}", "yellow")
        else:
            self.made[outcome.key] = outcome.value
            quarantine.release(outcome.key, self.stage.name)
