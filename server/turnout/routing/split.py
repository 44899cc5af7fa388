"""The routes of one selector while a policy splits its traffic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from turnout.routing.slots import SLOTS, Owners, position
from turnout.serving.data_plane.inference import Route


@dataclass(slots=True, eq=False)
class Cursor:
    """How many requests without a key a selector has had; it outlives the splits made while versions come and go."""

    count: int = 0


@dataclass(slots=True, eq=False)
class Split:
    """Chooses among the routes of one selector. Used on the event loop only.

    Attributes:
        owners: Who owns which slot.
        routes: By owner's number; the baseline's route stands also for each owner that cannot answer this selector.
        tally: Counts choices by owner's number where each owner could have been chosen; None if one could not.
        cursor: Of the selector.
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
        if routing_key:
            number = owners.by_slot[owners.slot(routing_key)]
        else:
            self.cursor.count += 1
            number = owners.by_position[position(self.cursor.count)]
        if self.tally is not None:
            self.tally[number] += 1
        return self.routes[number]

    def chances(self, routing_key: str, *, baseline_only: bool) -> Mapping[Route, float]:
        """Returns how likely each route is for a request, lanes of one version taken together; counts nothing."""
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
