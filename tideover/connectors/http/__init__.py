"""The connector of every system that speaks JSON over HTTP, driven by a description (`tideover.config.rest`).

rest       HttpConnector: the port, put together from what follows
wire       one private connection pool; an exchange is an answer or the reason why there is none
auth       credentials applied; OAuth 2.0 tokens fetched once for all callers
source     the pages of a stream
pure: answer, bulk, classify, expressions, pagination, requests, scrub, throttle, watermark
"""

from __future__ import annotations

from tideover.connectors.http.access import (
    Access,
    ApiKey,
    Auth,
    Basic,
    Bearer,
    NoAuth,
    OAuth2ClientCredentials,
    OAuth2Refresh,
)
from tideover.connectors.http.rest import HttpConnector

__all__ = [
    "Access",
    "ApiKey",
    "Auth",
    "Basic",
    "Bearer",
    "HttpConnector",
    "NoAuth",
    "OAuth2ClientCredentials",
    "OAuth2Refresh",
]
