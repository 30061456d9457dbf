"""Prefect blocks: what the hub may know of a system, and no file or log may.

`prefect block register --module blocks` makes the types; `tideover blocks apply` makes them and the documents.
"""

from blocks.applied import Applied
from blocks.keys import EncryptionKeys, SigningSecret
from blocks.staging import StagingDatabase
from blocks.systems import (
    ApiKeySystem,
    BasicSystem,
    BearerSystem,
    OAuth2ClientSystem,
    OAuth2RefreshSystem,
    OpenSystem,
)

__all__ = [
    "ApiKeySystem",
    "Applied",
    "BasicSystem",
    "BearerSystem",
    "EncryptionKeys",
    "OAuth2ClientSystem",
    "OAuth2RefreshSystem",
    "OpenSystem",
    "SigningSecret",
    "StagingDatabase",
]
