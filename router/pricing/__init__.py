"""What a vendor's usage object costs: `price_usage`. The flow prices its own requests with `router.core.pricing`."""

from router.pricing.price import Line, Priced, price_usage

__all__ = ["Line", "Priced", "price_usage"]
