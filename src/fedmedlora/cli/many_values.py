"""Options that take several values at once, as shells write them: `--site notes/*`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class ManyValues(TyperCommand):
    """A command whose repeatable options may be followed by more than one value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`--site a b`, or `--site=a b`, is read as `--site a --site b`."""
        many = {o for p in self.params if getattr(p, "multiple", False) for o in p.opts}
        spread: list[str] = []
        option, lacks_value = "", False
        for word in args:
            if word.startswith("-") and word != "-":
                name, equals, _ = word.partition("=")
                option, lacks_value = (name if name in many else ""), not equals
                spread.append(word)
            elif option and not lacks_value:
                spread += [option, word]
            else:
                lacks_value = False
                spread.append(word)
        return super().parse_args(ctx, spread)
