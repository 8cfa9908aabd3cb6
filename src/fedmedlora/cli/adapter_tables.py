"""What `fedmedlora adapter` reads from options and shows on a terminal."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from fedmedlora.core.errors import ConfigError


def numbers(option: str, text: str | None) -> list[Decimal] | None:
    """The numbers of an option with commas between them; None without the option.

    Raises:
        ConfigError: One is none.
    """
    if text is None:
        return None
    try:
        return [Decimal(part.strip()) for part in text.split(",")]
    except InvalidOperation:
        raise ConfigError(
            f"{option}: expected numbers with commas between, got {text!r}."
        ) from None


def merge_lines(found: dict[str, Any]) -> list[str]:
    """Who was merged with which weight, and what is notable about it."""
    flags = found["record"].get("flags", {})
    lines = [
        f"{row['weight']:8.4f}  {row['adapter']}"
        + "".join(f"  {flag}" for flag in flags.get(row["adapter"], []))
        for row in found["adapters"]
        if row["adapter"] not in found["refused"]
    ]
    lines += [f"left out  {name}  ({code})" for name, code in found["refused"].items()]
    energy = found["record"].get("energy_kept")
    if energy is not None:
        lines.append(f"rank {found['rank']} holds {100 * energy:.2f} % of the mean's energy")
    return lines


def inspection_lines(found: dict[str, Any]) -> list[str]:
    """A few lines on the whole, then one a module."""
    revision = f" at {found['revision']}" if found["revision"] else ""
    scale = "alpha / sqrt(rank)" if found["rslora"] else "alpha / rank"
    lines = [
        f"base model   {found['base_model'] or 'unknown'}{revision}",
        f"rank         {found['rank']}, alpha {found['alpha']:g}, scaling {found['scaling']:g} "
        f"({scale})",
        f"size         {found['num_parameters']:,} numbers in {found['num_modules']} modules, "
        f"{found['dtype']}, {found['num_bytes']:,} bytes",
        f"norm         {_number(found['norm'])}" + ("" if found["finite"] else "  NOT FINITE"),
    ]
    if "against" in found:
        other = found["against"]
        lines.append(
            f"against      distance {_number(other['distance'])}, "
            f"{_number(other['relative_distance'])} of its norm {_number(other['norm'])}; "
            f"cosine {_number(other['cosine'])}"
        )
    lines.append(f"{'d_out x d_in':>14} {'norm':>10} {'ranks used':>10} {'for 90 %':>8}  module")
    for row in found["modules"]:
        shape = f"{row['d_out']} x {row['d_in']}"
        lines.append(
            f"{shape:>14} {_number(row['norm']):>10} {row['rank_used'] or '-':>10} "
            f"{row['rank_for_90_percent'] or '-':>8}  {row['module']}"
        )
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
