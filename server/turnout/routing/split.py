"""The routes of one selector while a policy splits its traffic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from turnout.routing.slots import SLOTS, Owners, position
from turnout.serving.data_plane.inference import Route


@dataclass(slots=True, eq=False)
class Cursor:
    """Number of a selector's requests without a key. It is kept when the split is made anew as versions come and go."""

    count: int = 0


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
        if routing_key:
            number = owners.by_slot[owners.slot(routing_key)]
        else:
            self.cursor.count += 1
            number = owners.by_position[position(self.cursor.count)]
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
