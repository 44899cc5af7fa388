"""The routes of one selector while a policy splits its traffic."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from turnout.routing.slots import GOLDEN, SLOTS, Owners
from turnout.serving.data_plane.inference import Route

_MASK = 2**64 - 1


@dataclass(slots=True, eq=False)
class Cursor:
    """A selector's place in an additive golden-ratio sequence, which says where its requests without a key go.

    It begins at random, so that servers, workers and selectors are not in step, and every request, even the first,
    reaches each version with the probability of its share. Any n consecutive requests have the exact shares up to 2
    requests for n <= 1,000, wherever the sequence begins (docs/decisions/0084-a-split-begins-at-random.md). The cursor
    is kept when the split is made anew as versions come and go.

    Attributes:
        at: The place, from 0 to 2**64 - 1.
    """

    at: int = field(default_factory=lambda: random.getrandbits(64))

    def advance(self) -> int:
        """Returns the position, from 0 to SLOTS - 1, of the next request."""
        self.at = (self.at + GOLDEN) & _MASK
        return self.at >> 48


@dataclass(slots=True, eq=False)
class Split:
    """Chooses among the routes of one selector. Used only on the event loop.

    Attributes:
        routes: Routes by owner's number. An owner that cannot answer this selector has the baseline's route.
        tally: Number of choices by owner's number; None if some owner could not be chosen, so that nothing is counted.
    """

    owners: Owners
    routes: Sequence[Route]
    tally: list[int] | None
    cursor: Cursor = field(default_factory=Cursor)

    def choose(self, routing_key: str, *, baseline_only: bool) -> Route:
        """Returns the route of the next request."""
        if baseline_only:
            return self.routes[0]
        owners = self.owners
        number = owners.by_slot[owners.slot(routing_key)] if routing_key else owners.by_position[self.cursor.advance()]
        if self.tally is not None:
            self.tally[number] += 1
        return self.routes[number]

    def chances(self, routing_key: str, *, baseline_only: bool) -> Mapping[Route, float]:
        """Returns the probability of each route for a request, with the lanes of a version combined. Counts nothing."""
        if baseline_only:
            return {self.routes[0]: 1.0}
        owners = self.owners
        routes = [self.routes[0] if route.lane else route for route in self.routes]
        if routing_key:
            return {routes[owners.by_slot[owners.slot(routing_key)]]: 1.0}
        chances: dict[Route, float] = {}
        for number in owners.by_position:
            route = routes[number]
            chances[route] = chances.get(route, 0.0) + 1 / SLOTS
        return chances
