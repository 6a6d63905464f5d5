"""Signatures: what is accepted, and what is refused with which words."""

from __future__ import annotations

import base64
import hashlib
import time
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.remote.calling import calling, make, run_request
from trio_dispatch.remote import unmarshal
from trio_dispatch.remote._messages import RUN_PATH, RunResponse

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PRIVATE.public_key()
RAW = base64.b64encode(PUBLIC.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
PEM = PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
ALL = ("@method", "@path", "@authority", "content-type", "content-digest")
HERE = "http://a.example/base"
"""The URL of the endpoint, wherever it is served."""


def signed(
    url: str,
    body: bytes,
    covered: tuple[str, ...] = ALL,
    *,
    age: float = 0,
    label: str = "dispatch",
    more: str = "",
) -> dict[str, str]:
    """The headers of a signed request, made by hand after RFC 9421, section 2.5."""
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    place = urlsplit(url)
    values = {
        "@method": "POST",
        "@path": place.path + RUN_PATH,
        "@authority": place.netloc,
        "content-type": "application/proto",
        "content-digest": f"sha-256=:{digest}:",
    }
    names = " ".join(f'"{name}"' for name in covered)
    parameters = f'({names});created={int(time.time() - age)};keyid="default";alg="ed25519"{more}'
    base = [f'"{name}": {values[name]}' for name in covered]
    base.append(f'"@signature-params": {parameters}')
    signature = base64.b64encode(PRIVATE.sign("\n".join(base).encode())).decode()
    return {
        "content-type": values["content-type"],
        "content-digest": values["content-digest"],
        "signature-input": f"{label}={parameters}",
        "signature": f"{label}=:{signature}:",
    }


@pytest.mark.parametrize("key", [RAW, PEM, PEM.replace("\n", "\\n"), f"  {RAW}\n"])
async def test_where_there_is_a_key_only_signed_requests_are_taken(key: str) -> None:
    async with calling(make(verification_key=key)) as caller:
        body = run_request("double", 2)
        answer = await caller.post(body, **signed(HERE, body))
        assert answer.status_code == 200, answer.text
        assert unmarshal(RunResponse.FromString(answer.content).exit.result.output) == 4

        unsigned = await caller.post(body)
        assert (unsigned.status_code, unsigned.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content-type": "application/octet-stream"}, "not valid"),
        ({"content-digest": "sha-256=:AAAA:"}, "not valid"),
        ({"signature": "dispatch=:AAAA:"}, "not valid"),
        ({"signature-input": "gar bage"}, "signature"),
    ],
)
async def test_a_request_that_was_changed_on_its_way_is_refused(
    change: dict[str, str], message: str
) -> None:
    async with calling(make(verification_key=RAW)) as caller:
        body = run_request("double", 2)
        answer = await caller.post(body, **(signed(HERE, body) | change))
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
        assert message in answer.json()["message"]


async def test_a_signature_covers_body_place_and_type_or_is_refused() -> None:
    async with calling(make(verification_key=RAW)) as caller:
        body, other = run_request("double", 2), run_request("double", 3)
        answer = await caller.post(other, **signed(HERE, body))
        assert answer.status_code == 403
        assert "the content-digest is not that of the body" in answer.text
        for left_out in ALL:
            covered = tuple(name for name in ALL if name != left_out)
            answer = await caller.post(body, **signed(HERE, body, covered))
            assert answer.status_code == 403
            assert f"does not cover {left_out}" in answer.text


@pytest.mark.parametrize(
    "url",
    [
        "http://other-tenant.example/base",
        "http://a.example",
        "http://a.example:8080/base",
        "http://a.example/base/x",
    ],
)
async def test_a_signature_for_another_endpoint_is_refused_whatever_the_host_header_says(
    url: str,
) -> None:
    async with calling(make(verification_key=RAW)) as caller:
        body = run_request("double", 2)
        place = urlsplit(url)
        for path in (RUN_PATH, "/base" + RUN_PATH):
            answer = await caller.post(body, path, host=place.netloc, **signed(url, body))
            assert answer.status_code == 403
            assert f"not valid for {HERE}" in answer.json()["message"]
        # The Host header plays no part, so a proxy may change it.
        answer = await caller.post(body, host=place.netloc, **signed(HERE, body))
        assert answer.status_code == 200


async def test_a_signature_is_accepted_for_five_minutes() -> None:
    async with calling(make(verification_key=RAW)) as caller:
        body = run_request("double", 2)

        async def post(age: float, more: str = "") -> str:
            answer = await caller.post(body, **signed(HERE, body, age=age, more=more))
            return "" if answer.status_code == 200 else answer.json()["message"]

        assert await post(295) == ""
        assert "older than 300 s" in await post(310)
        assert "older than 300 s" in await post(23 * 3600)
        assert await post(-3) == ""
        assert "in the future" in await post(-10)
        assert "has expired" in await post(60, f";expires={int(time.time()) - 30}")
        assert await post(60, f";expires={int(time.time()) + 30}") == ""


async def test_two_signatures_that_cover_a_part_each_prove_nothing() -> None:
    async with calling(make(verification_key=RAW)) as caller:
        body = run_request("double", 2)
        headers = signed(HERE, body, ALL[:3])
        for name, value in signed(HERE, body, ALL[3:], label="other").items():
            if name.startswith("signature"):
                headers[name] += f", {value}"
        assert (await caller.post(body, **headers)).status_code == 403


async def test_the_key_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCH_VERIFICATION_KEY", RAW)
    async with calling(make()) as caller:
        assert (await caller.post(run_request("double", 1))).status_code == 401


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="neither PEM nor the base64 of 32 bytes"):
        make(verification_key="AAAA")
    with pytest.raises(ValueError, match="verification key"):
        make(verification_key="-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----")
    rsa = generate_private_key(65537, 2048).public_key()
    text = rsa.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    with pytest.raises(ValueError, match="no Ed25519 key"):
        make(verification_key=text)
