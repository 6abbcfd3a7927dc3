"""What a unit of work takes on a machine, learned from every job."""

from __future__ import annotations

from collections.abc import Mapping

from mqnative.store.connection import Database

# How much what was known counts beside what is new: the last few jobs decide, no single one does.
_MEMORY = 0.5


class UnitCosts:
    """Seconds per unit of work, by machine and name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, machine: str) -> dict[str, float]:
        """Every known cost of a machine, seconds per unit."""
        rows = self._database.execute(
            "SELECT name, seconds / work FROM unit_costs WHERE machine = ?", (machine,)
        )
        return {name: float(cost) for name, cost in rows}

    def learn(self, machine: str, measured: Mapping[str, tuple[float, float]]) -> None:
        """Add measurements: name -> (seconds, units of work above 0)."""
        with self._database.transaction() as db:
            db.executemany(
                "INSERT INTO unit_costs (machine, name, seconds, work) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (machine, name) DO UPDATE SET updated = excluded.updated, "
                f"seconds = {_MEMORY} * seconds + excluded.seconds, work = {_MEMORY} * work + excluded.work",
                [(machine, name, *cost) for name, cost in measured.items()],
            )
