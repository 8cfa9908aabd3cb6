"""Writes the pages on strategies and laws from docstrings: `python docs/methods/render.py`."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from fedmedlora.aggregation import StrategyConfig
from fedmedlora.testing.declared import DECLARED
from fedmedlora.testing.laws import LAWS

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).resolve().parent
LABELS = ("Update", "Sends", "Limits", "Reference")

_STRATEGIES = """# Strategies

How the sites' adapters become one: every strategy of `[[strategies]]` in a study file, with its
options. This page is written by `python docs/methods/render.py` from docstrings and settings; a
test holds that it says what they say. In formulas, site i sends `A_i` and `B_i`, `s_i` is its
scaling (alpha / rank), `n_i` its size and `L_i` the validation loss of its adapter; `n` is the sum
of all sizes, `G` the global product. Which laws a strategy keeps: [laws](laws.md).
"""

_LAWS = """# Laws of aggregation

What should hold for any way to merge adapters, tried on made-up rounds: layers that are not square,
rank 1 and a rank above both sides of a layer, float32 and bfloat16, rsLoRA, one site and many. This
page is written by `python docs/methods/render.py`.

A strategy of your own is checked with one call:
```python
from fedmedlora.testing.laws import check_strategy

check_strategy(MyStrategy())
```
It raises with the names of all laws that are broken. Some laws exclude each other: the mean of
factors is not the mean of products. So a law that cannot hold is declared with its reason, and the
suite then demands that it is *broken*; a wrong declaration is noticed like a wrong merge.
```python
check_strategy(MyStrategy(), exceptions={"own-gauge": "averages factors"}, min_sites=5)
```
In pytest, one test a law: `@pytest.mark.parametrize("law", LAWS)` over
`check_law(MyStrategy(), law)`.
"""


def pages() -> dict[str, str]:
    """The text of each page, by file name."""
    return {"strategies.md": strategies_page(), "laws.md": laws_page()}


def configs() -> list[type[BaseModel]]:
    """The settings of all strategies, in the order of the union."""
    union, *_ = get_args(StrategyConfig)
    return list(get_args(union))


def strategies_page() -> str:
    """A table of all strategies, and a section each."""
    rows = []
    for config in configs():
        idea, parts = described(type(_built(config)))
        name = _name(config)
        rows.append(f"| [`{name}`](#{name}) | {idea} | {parts['Sends']} |")
    table = "\n".join(["| strategy | idea | sends |", "|---|---|---|", *rows])
    return "\n".join([_STRATEGIES, table, "", *(_section(config) for config in configs())])


def laws_page() -> str:
    """A table of the laws, and one of who breaks them and why."""
    laws = [f"| {name} | {_paragraphs(law)} |" for name, law in LAWS.items()]
    kept = [f"| {name} | {_told(declared.exceptions)} |" for name, declared in DECLARED.items()]
    return "\n".join(
        [
            _LAWS,
            "## The laws\n",
            "| law | what it demands |",
            "|---|---|",
            *laws,
            "\n## Who breaks which, and why\n",
            "| strategy | laws that cannot hold |",
            "|---|---|",
            *kept,
            "",
        ]
    )


def described(strategy: type) -> tuple[str, dict[str, str]]:
    """The idea in a sentence, and the labelled parts of a strategy's docstring.

    Raises:
        ValueError: A part is missing.
    """
    text = inspect.getdoc(strategy) or ""
    idea, _, rest = text.partition("\n\n")
    starts = re.split(rf"^({'|'.join(LABELS)}):", rest, flags=re.MULTILINE)
    parts = {
        label: textwrap.dedent(" " * 11 + body.lstrip()).strip()
        for label, body in zip(starts[1::2], starts[2::2], strict=True)
    }
    if tuple(parts) != LABELS:
        raise ValueError(f"{strategy.__name__}: expected {LABELS} in the docstring, got {parts}.")
    flat = {label: " ".join(part.split()) for label, part in parts.items() if label != "Update"}
    return " ".join(idea.split()), {"Update": parts["Update"], **flat}


def options(config: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str]]:
    """Name, default and meaning of every option; those of a table within it by dotted name.

    Raises:
        ValueError: An option has no docstring.
    """
    meanings = _field_docstrings(config)
    rows: list[tuple[str, str, str]] = []
    for name, field in config.model_fields.items():
        inner = field.annotation
        if name == "name" and not prefix:
            continue
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += options(inner, f"{prefix}{name}.")
            continue
        if name not in meanings:
            raise ValueError(f"{config.__name__}.{name}: expected a docstring under the option.")
        rows.append((f"{prefix}{name}", _toml(field.default), _choices(inner) + meanings[name]))
    return rows


def _section(config: type[BaseModel]) -> str:
    strategy = type(_built(config))
    idea, parts = described(strategy)
    source = Path(inspect.getfile(strategy)).name
    lines = [
        f"## {_name(config)}\n",
        f"{idea}\n",
        f"```text\n{parts['Update']}\n```\n",
        f"- **Sends** {parts['Sends']}",
        f"- **Limits** {parts['Limits']}",
        f"- **Reference** {_linked(parts['Reference'])}",
        f"- **Source** [{source}](../../src/fedmedlora/aggregation/{source})\n",
    ]
    rows = options(config)
    if rows:
        lines += ["| option | default | meaning |", "|---|---|---|"]
        lines += [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in rows]
        lines.append("")
    return "\n".join(lines)


def _built(config: type[Any]) -> object:
    strategy: object = config().build()
    return strategy


def _name(config: type[BaseModel]) -> str:
    return str(config.model_fields["name"].default)


def _field_docstrings(config: type) -> dict[str, str]:
    """What stands under each field in the class's source."""
    source: Any = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    found = {}
    for field, text in pairwise(source.body):
        documented = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and documented:
            found[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(text.value)).split())
    return found


def _choices(annotation: Any) -> str:
    """`One of a, b, c.` for a closed set of words; nothing otherwise."""
    inner = [annotation, *get_args(annotation)]
    words = [word for part in inner if get_origin(part) is Literal for word in get_args(part)]
    return f"{' / '.join(f'`{word}`' for word in words)}. " if words else ""


def _toml(default: Any) -> str:
    if default is None:
        return "none"
    return f"`{json.dumps(default)}`"


def _paragraphs(documented: object) -> str:
    return " ".join((inspect.getdoc(documented) or "").split())


def _told(exceptions: Mapping[str, str]) -> str:
    return "; ".join(f"**{law}**: {reason}" for law, reason in exceptions.items()) or "none"


def _linked(text: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
