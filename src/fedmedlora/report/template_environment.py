"""The templates of the pages: everything that they are given is escaped."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def template_environment() -> Environment:
    """An environment with the templates of this package; a name that nobody gave is an error."""
    return Environment(
        loader=PackageLoader("fedmedlora.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
