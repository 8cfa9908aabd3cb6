"""The ledger of bytes that went down to sites and came up from them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Traffic:
    """Bytes by site since the run began; the only mutable thing here, because it counts."""

    up: dict[str, int] = field(default_factory=dict)
    down: dict[str, int] = field(default_factory=dict)

    def sent_down(self, site: str, num_bytes: int) -> None:
        """Adds bytes that a site received."""
        self.down[site] = self.down.get(site, 0) + num_bytes

    def sent_up(self, site: str, num_bytes: int) -> None:
        """Adds bytes that left a site."""
        self.up[site] = self.up.get(site, 0) + num_bytes

    def copy(self) -> Traffic:
        """The counts as they are now."""
        return Traffic(dict(self.up), dict(self.down))

    def since(self, earlier: Traffic) -> Traffic:
        """What was added after `earlier` was copied, for the sites where something was."""
        return Traffic(
            {s: n - earlier.up.get(s, 0) for s, n in self.up.items() if n != earlier.up.get(s, 0)},
            {
                s: n - earlier.down.get(s, 0)
                for s, n in self.down.items()
                if n != earlier.down.get(s, 0)
            },
        )
