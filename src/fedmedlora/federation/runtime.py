"""How requests reach sites, whether they are in this process or in five hospitals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fedmedlora.adapters.exchange import Reply, Request
    from fedmedlora.federation.traffic import Traffic


class SiteHandler(Protocol):
    """A site's one door."""

    def handle(self, request: Request) -> Reply:
        """The reply to a request; an exception becomes a `SiteFailure` on the way out."""


class Runtime(Protocol):
    """Carries requests to sites and replies back."""

    @property
    def traffic(self) -> Traffic:
        """Bytes carried so far."""

    def call(
        self, requests: Mapping[str, Request], deadline_seconds: float | None = None
    ) -> Iterator[Reply]:
        """One reply a site, as they come; a site that failed is a `SiteFailure`."""
