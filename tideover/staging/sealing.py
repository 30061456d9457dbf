"""Payloads at rest: AES-256-GCM under a named key, bound to the record they belong to.

A sealed payload is `0x01 | key id length | key id | 12-byte nonce | ciphertext and tag`; the associated data is
`route|record`, so a payload that was moved to another record is refused. Without keys, payloads are stored as they
are; what was stored before keys were set stays readable. (NIST SP 800-38D; random nonces, so at most 2**32 payloads
under one key: rotate.)
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tideover.errors import CorruptPayload, MissingKey, Refused

_SEALED = 0x01  # JSON text never begins with this byte
_MARK = bytes((_SEALED,))
_KEY_NAME = re.compile(rb"[A-Za-z0-9_-]{1,40}")  # as the block with the keys has them
_NONCE_BYTES, _TAG_BYTES = 12, 16


def is_sealed(stored: bytes) -> bool:
    """Whether what is stored is a sealed payload; else it is the payload itself."""
    return stored[:1] == _MARK


class Sealer(Protocol):
    def seal(self, place: str, payload: bytes) -> bytes:
        """What is stored for `payload`, bound to `place`."""
        ...

    def unseal(self, place: str, stored: bytes) -> bytes:
        """The payload again. Raises `MissingKey` when its key is, `CorruptPayload` when it is not `place`'s."""
        ...


class Plain:
    """No encryption of our own."""

    def seal(self, place: str, payload: bytes) -> bytes:
        return payload

    def unseal(self, place: str, stored: bytes) -> bytes:
        if is_sealed(stored):
            name, _ = _key_of(place, stored)
            raise MissingKey(
                name, f"payloads are encrypted with key {name!r}: name its block under `encryption` in the hub's file"
            )
        return stored


class Sealed:
    """Seals under the current key, unseals under any that is known."""

    def __init__(self, current: str, keys: Mapping[str, bytes]) -> None:
        if current not in keys:
            raise Refused(f"the current encryption key {current!r} is not among the keys")
        if not _KEY_NAME.fullmatch(current.encode()):
            raise Refused(f"an encryption key can't be called {current!r}: use up to 40 letters, digits, - and _")
        self._current = current
        self._ciphers = {name: AESGCM(key) for name, key in keys.items()}

    def seal(self, place: str, payload: bytes) -> bytes:
        name = self._current.encode()
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, payload, place.encode())
        return bytes((_SEALED, len(name))) + name + nonce + sealed

    def unseal(self, place: str, stored: bytes) -> bytes:
        if not is_sealed(stored):
            return stored
        name, end = _key_of(place, stored)
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise MissingKey(
                name, f"encryption key {name!r} is missing: put it back into the block, old keys are needed to read"
            )
        try:
            return cipher.decrypt(stored[end : end + _NONCE_BYTES], stored[end + _NONCE_BYTES :], place.encode())
        except InvalidTag:
            raise CorruptPayload(f"the payload of {place} does not fit its record: it was moved or altered") from None


def _key_of(place: str, stored: bytes) -> tuple[str, int]:
    """The name of the key, and where it ends. Raises `CorruptPayload` for what can't have been sealed by us."""
    end = 2 + stored[1] if len(stored) > 1 else 2
    if len(stored) < end + _NONCE_BYTES + _TAG_BYTES:
        raise CorruptPayload(f"the payload of {place} was cut off")
    name = stored[2:end]
    if not _KEY_NAME.fullmatch(name):
        raise CorruptPayload(f"the payload of {place} names no key: it was altered")
    return name.decode(), end
