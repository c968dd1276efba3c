"""Consumable resources: how many units of each there are, and how many the running children hold.

A child holds the units that its job asks for from STARTING until nothing of it runs any more. Those of a replenishable
resource are then free again, those of another are spent. A resource that was deleted has no units; one that is made
again under its name is the same one, for which children may have waited.

https://docs.aws.amazon.com/batch/latest/userguide/resource-aware-scheduling.html
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

#: Names of consumable resources, each with the units that a child takes.
Needs = tuple[tuple[str, int], ...]


@dataclass(kw_only=True, slots=True)
class Consumable:
    """One consumable resource."""

    total: int
    is_replenishable: bool


class Units:
    """The units of all consumable resources."""

    def __init__(self) -> None:
        self.consumables: dict[str, Consumable] = {}
        #: By name; of deleted resources too, as long as children hold some.
        self.in_use: Counter[str] = Counter()
        #: Resources whose total changed because units were spent, since the caller last emptied it.
        self.spent: dict[str, None] = {}

    def available(self, name: str) -> int:
        """Units that a child could take now; a total that was lowered below what is in use leaves none."""
        consumable = self.consumables.get(name)
        return max(0, consumable.total - self.in_use[name]) if consumable else 0

    def suffice(self, needs: Needs) -> bool:
        """Whether a child with these needs could start."""
        return all(self.available(name) >= quantity for name, quantity in needs)

    def take(self, needs: Needs) -> None:
        """A child starts, or is found running."""
        for name, quantity in needs:
            self.in_use[name] += quantity

    def free(self, needs: Needs, *, spent: bool) -> None:
        """A child holds its units no more; `spent`: it used them, so that only replenishable ones are there again."""
        for name, quantity in needs:
            self.in_use[name] -= quantity
            consumable = self.consumables.get(name)
            if spent and consumable and not consumable.is_replenishable:
                consumable.total = max(0, consumable.total - quantity)
                self.spent[name] = None
