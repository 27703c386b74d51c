"""What all exchanges of a worker use. Made once by `assembly`."""

from __future__ import annotations

from gateway.dataplane.core.context import WorkerContext
from gateway.dataplane.core.cors import CorsPolicy
from gateway.dataplane.exchange.backend_refusals import BackendRefusals
from gateway.dataplane.exchange.holding import Holding
from gateway.dataplane.exchange.item_sampler import ItemSampler
from gateway.dataplane.exchange.record import RequestObserver


class ExchangeServices:
    """See the module."""

    __slots__ = (
        "backend_refusals",
        "context",
        "cors",
        "holding",
        "is_sampling",
        "is_tracing",
        "item_sampler",
        "observers",
    )

    def __init__(
        self,
        context: WorkerContext,
        observers: tuple[RequestObserver, ...],
        backend_refusals: BackendRefusals,
        cors: CorsPolicy | None,
        item_sampler: ItemSampler | None = None,
        *,
        is_sampling: bool = False,
    ) -> None:
        self.context = context
        self.item_sampler = item_sampler
        """Chooses requests whose items are counted; None: nobody does."""
        self.observers = observers if item_sampler is None else (*observers, item_sampler)
        """Who hears of each request when it has ended."""
        self.backend_refusals = backend_refusals
        self.cors = cors
        """None: browsers of other origins are not answered."""
        self.holding = Holding(context)
        """Requests that wait for their backend to come back."""
        self.is_sampling = is_sampling
        """Whether some requests are told to control, to be exported."""
        self.is_tracing = is_sampling
        """Whether somebody watches requests: then a record says where its request went."""

    def watch(self, tracer: RequestObserver, *, is_wanted: bool) -> None:
        """Let `tracer` observe requests too, or no longer."""
        others = tuple(observer for observer in self.observers if observer is not tracer)
        self.observers = (*others, tracer) if is_wanted else others
        self.is_tracing = is_wanted or self.is_sampling
