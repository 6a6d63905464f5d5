"""Who sent a request: HTTP Message Signatures, Ed25519.

The service signs method, path, authority, type and digest of each request. http-message-signatures
checks the signatures; this module checks that one covers all of those, that it is recent,
that it was made for the endpoint's own URL, and that the digest is the body's.
"""

# The library has types, and exports its names without saying so.
# pyright: reportPrivateImportUsage=false, reportUnknownMemberType=false

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

import attrs
import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from http_message_signatures import (
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    VerifyResult,
    algorithms,
)

from trio_dispatch.remote._time import now

COVERED: Final = ("@method", "@path", "@authority", "content-type", "content-digest")
MAX_AGE: Final = 300
"""Seconds for which a signature is accepted, as in the other packages."""
TOLERANCE: Final = 5
"""Seconds by which two clocks may differ."""
_DIGESTS: Final = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}


class BadSignature(Exception):
    """The request is not from where it claims to be; or, where `missing`, claims nothing."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


def read_key(text: str) -> Ed25519PublicKey:
    """Read a verification key: PEM, or the base64 of its 32 bytes.

    Raises:
        ValueError: it is neither.
    """
    text = text.strip()
    if text.startswith("-----"):
        # An environment variable may hold the line breaks escaped.
        try:
            key = load_pem_public_key(text.replace("\\n", "\n").encode())
        except ValueError as exc:
            raise ValueError("the verification key begins like PEM, and is none") from exc
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("the verification key is no Ed25519 key")
        return key
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except ValueError as exc:
        raise ValueError("the verification key is neither PEM nor the base64 of 32 bytes") from exc


@attrs.frozen
class _Message:
    """A request, as the library wants to see it."""

    method: str
    url: str
    headers: MutableMapping[str, str]


class _OneKey(HTTPSignatureKeyResolver):
    """One key, whatever its id."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    def resolve_public_key(self, key_id: str) -> Any:  # noqa: ARG002
        return self._key

    def resolve_private_key(self, key_id: str) -> Any:
        raise NotImplementedError


class _Checker(HTTPMessageVerifier):
    """The library's, with times that also hold under a virtual clock, and a shorter life."""

    def validate_created_and_expires(self, sig_input: Any, max_age: object = None) -> None:  # noqa: ARG002
        moment = now().timestamp()
        created = sig_input.params.get("created")
        expires = sig_input.params.get("expires")
        if not isinstance(created, int):
            raise InvalidSignature("it does not say when it was created")
        if created > moment + TOLERANCE:
            raise InvalidSignature("it was created in the future")
        if created < moment - MAX_AGE - TOLERANCE:
            raise InvalidSignature(f"it is older than {MAX_AGE} s")
        if expires is not None and not (isinstance(expires, int) and expires >= moment - TOLERANCE):
            raise InvalidSignature("it has expired")


class Verifier:
    """Checks that requests were signed with the private half of *key*."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._verifier = _Checker(signature_algorithm=algorithms.ED25519, key_resolver=_OneKey(key))

    def verify(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Check one POST to *url*. *headers* have lower-case names.

        Raises:
            BadSignature: it is not signed, or not as it should be.
        """
        if "signature" not in headers or "signature-input" not in headers:
            raise BadSignature("the request is not signed", missing=True)
        try:
            # The library's versions differ in how they write the names.
            found = self._verifier.verify(_Message("POST", url, httpx.Headers(dict(headers))))
        except InvalidSignature as exc:
            raise BadSignature(f"the signature is not valid for {url}: {exc}") from exc
        except Exception as exc:
            raise BadSignature(f"the signature cannot be read: {exc}") from exc
        # One signature must cover all of it; several that cover a part each prove nothing.
        uncovered = [_uncovered(result) for result in found]
        if not any(not missing for missing in uncovered):
            missing = ", ".join(uncovered[0]) if uncovered else "anything"
            raise BadSignature(f"the signature does not cover {missing}")
        _check_digest(headers.get("content-digest", ""), body)


def _uncovered(result: VerifyResult) -> list[str]:
    covered = {name.strip('"') for name in result.covered_components}
    return [name for name in COVERED if name not in covered]


def _check_digest(header: str, body: bytes) -> None:
    found = re.findall(r"(sha-256|sha-512)=:([A-Za-z0-9+/=]*):", header)
    if not found:
        raise BadSignature("the content-digest is of no known kind")
    for kind, text in found:
        digest = base64.b64encode(_DIGESTS[kind](body).digest()).decode()
        if not hmac.compare_digest(digest, text):
            raise BadSignature("the content-digest is not that of the body")


def read_signing_key(text: str) -> Ed25519PrivateKey:
    """Read a signing key: PEM without a password, or the base64 of its 32 bytes.

    Raises:
        ValueError: it is neither. The message does not show it.
    """
    text = text.strip()
    try:
        if text.startswith("-----"):
            key = load_pem_private_key(text.replace("\\n", "\n").encode(), None)
        else:
            key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(text, validate=True))
    except (TypeError, ValueError):
        raise ValueError("the signing key is neither PEM nor the base64 of 32 bytes") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("the signing key is no Ed25519 key")
    return key


class Signer:
    """Signs requests with *key*, as the service does (RFC 9421, section 2.5)."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.verification_key = base64.b64encode(raw).decode()

    def sign(self, url: str, content_type: str, body: bytes) -> dict[str, str]:
        """The headers that sign a POST of *body* to *url*."""
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        place = urlsplit(url)
        values = ("POST", place.path, place.netloc, content_type, f"sha-256=:{digest}:")
        names = " ".join(f'"{name}"' for name in COVERED)
        created = int(now().timestamp())
        parameters = f'({names});created={created};keyid="default";alg="ed25519"'
        lines = [f'"{name}": {value}' for name, value in zip(COVERED, values, strict=True)]
        lines.append(f'"@signature-params": {parameters}')
        signature = base64.b64encode(self._key.sign("\n".join(lines).encode())).decode()
        return {
            "content-digest": values[-1],
            "signature-input": f"dispatch={parameters}",
            "signature": f"dispatch=:{signature}:",
        }
