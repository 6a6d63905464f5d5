"""Random faults, which a seed reproduces."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

import attrs
import trio

from trio_dispatch.testing._proxy import DIRECTIONS, FaultyProxy

WEIGHTS: Final[Mapping[str, float]] = {
    "drop": 5,
    "drop-eof": 3,
    "refuse": 2,
    "stall": 2,
    "half-open": 1,
    "slow": 2,
    "cut": 3,
}
"""The relative frequency of each kind. ``half-open`` stalls one direction only."""


@attrs.frozen(kw_only=True)
class FaultPlan:
    """A random sequence of faults.

    Attributes:
        seed: the random seed. The same seed causes the same faults after the same pauses.
        faults: how many faults.
        pause: seconds between faults, on average.
        longest: the most seconds that a stall or a slow period lasts.
        weights: the relative frequency of each kind; see `WEIGHTS`.
    """

    seed: int
    faults: int = 100
    pause: float = 1.0
    longest: float = 5.0
    weights: Mapping[str, float] = WEIGHTS

    async def run(self, proxy: FaultyProxy) -> None:
        """Cause all faults on *proxy*, then end them, even if this is cancelled."""
        rng = random.Random(self.seed)
        kinds = list(self.weights)
        try:
            for _ in range(self.faults):
                await trio.sleep(rng.expovariate(1 / self.pause))
                (kind,) = rng.choices(kinds, [self.weights[kind] for kind in kinds])
                await self._do(proxy, kind, rng)
        finally:
            proxy.heal()

    async def _do(self, proxy: FaultyProxy, kind: str, rng: random.Random) -> None:
        lasting = rng.uniform(0, self.longest)
        direction = rng.choice(DIRECTIONS)
        if kind == "drop":
            proxy.drop()
        elif kind == "drop-eof":
            proxy.drop("eof")
        elif kind == "refuse":
            proxy.refuse(rng.randint(1, 3))
            proxy.drop()
        elif kind == "stall":
            proxy.stall()
            await trio.sleep(lasting)
            proxy.resume()
        elif kind == "half-open":
            proxy.stall(direction)
            await trio.sleep(lasting)
            proxy.resume()
        elif kind == "slow":
            proxy.slow(rng.choice((500, 5_000, 50_000)), direction)
            await trio.sleep(lasting)
            proxy.slow(None)
        elif kind == "cut":
            proxy.cut_after(rng.randrange(3_000), direction)
            proxy.drop()
        else:
            raise ValueError(f"there is no fault {kind!r}")
