"""Laws of aggregation, for any strategy: yours too.

    check_strategy(MyStrategy())

raises with the names of all laws that are broken. A law that cannot hold is declared, with the
reason; then the suite asserts that it is broken, so that a wrong declaration is noticed:

    check_strategy(MyStrategy(), exceptions={"own-gauge": "averages factors"})

One test a law:

    @pytest.mark.parametrize("law", LAWS)
    def test_law(law): check_law(MyStrategy(), law)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fedmedlora.testing import laws_of_arithmetic as arithmetic
from fedmedlora.testing import laws_of_conduct as conduct
from fedmedlora.testing.law_cases import SETTINGS, BrokenLawError, Round

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedmedlora.aggregation.strategy import Strategy

__all__ = ["LAWS", "BrokenLawError", "check_law", "check_strategy"]

LAWS: Mapping[str, Callable[[Round], None]] = {
    "plan": conduct.plans_are_the_studys,
    "order": conduct.order_is_ignored,
    "inputs": conduct.inputs_stay,
    "weights": conduct.weights_are_shares,
    "fits": conduct.result_fits,
    "one-site": arithmetic.one_site_is_its_own,
    "alike-sites": arithmetic.alike_sites_are_their_own,
    "mean-of-factors": arithmetic.factors_are_their_mean,
    "mean-of-products": arithmetic.products_are_their_mean,
    "scaling": arithmetic.scale_and_factor_cancel,
    "common-gauge": arithmetic.a_common_gauge_cancels,
    "own-gauge": arithmetic.sites_own_gauges_cancel,
    "proportion": arithmetic.changes_scale_along,
    "halves": arithmetic.a_site_in_two_halves_is_one,
    "no-dead-pairs": arithmetic.no_pair_is_dead,
    "no-op": arithmetic.nothing_learned_changes_nothing,
    "far-site": arithmetic.a_far_site_is_bounded,
    "broken-update": conduct.a_broken_update_is_named,
    "stale-or-double": conduct.stale_and_double_updates_are_named,
    "too-few": conduct.too_few_are_refused,
    "resume": conduct.resuming_is_exact,
}
"""The laws by name; a law's docstring says what it demands."""

_SEEDS = (0, 1)


def check_strategy(
    strategy: Strategy, *, exceptions: Mapping[str, str] | None = None, min_sites: int = 1
) -> None:
    """Nothing, if the strategy keeps all laws but the declared exceptions, and breaks those.

    Args:
        strategy: Any strategy. Modes that need notes at the server get some.
        exceptions: Why a law cannot hold, by law.
        min_sites: How many updates it takes; with fewer it must refuse.

    Raises:
        BrokenLawError: Names every law that is not as declared, with what was seen.
    """
    declared = exceptions or {}
    faults = []
    for law in LAWS:
        try:
            check_law(strategy, law, exceptions=declared, min_sites=min_sites)
        except BrokenLawError as error:
            faults.append(str(error))
    unknown = sorted(declared.keys() - LAWS.keys())
    faults += [f"{law}: there is no such law." for law in unknown]
    if faults:
        raise BrokenLawError("\n".join(faults))


def check_law(
    strategy: Strategy,
    law: str,
    *,
    exceptions: Mapping[str, str] | None = None,
    min_sites: int = 1,
) -> None:
    """Nothing, if the strategy keeps this law, or breaks it as declared; see `check_strategy`.

    Raises:
        BrokenLawError: It is not so.
    """
    fault = _fault_of(strategy, law, min_sites)
    reason = (exceptions or {}).get(law)
    if fault is not None and reason is None:
        raise BrokenLawError(f"{type(strategy).__name__} breaks the law {law}: {fault}")
    if fault is None and reason is not None:
        raise BrokenLawError(
            f"{type(strategy).__name__} keeps the law {law}, which it was declared to break "
            f"({reason})."
        )


def _fault_of(strategy: Strategy, law: str, min_sites: int) -> str | None:
    """How the law was seen to be broken; None if it was not."""
    for seed in _SEEDS:
        for setting in SETTINGS:
            enough = replace(setting, num_sites=max(setting.num_sites, min_sites))
            try:
                LAWS[law](Round(strategy, enough, seed, min_sites))
            except BrokenLawError as fault:
                return f"{fault} (seen with {setting})"
            except Exception as error:  # a strategy that falls over breaks the law, too
                return f"{type(error).__name__}: {error} (seen with {setting})"
    return None
