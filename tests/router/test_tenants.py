"""Which tenant a call counts for, and what of another tenant's it meets."""

import pytest

from lengthwise_router.serving.records import RequestRecord, RequestRecords
from lengthwise_router.tenants import UNKNOWN, Caller, Tenant, Tenants

ALICE = Caller(("alice",))
BOB = Caller(("bob",))
GATEWAY = Caller(("gateway.example",))


@pytest.fixture
def tenants() -> Tenants:
    return Tenants(gateways=["gateway.example"], separate=True)


def test_without_a_certificate_a_request_counts_for_whom_it_says(tenants: Tenants) -> None:
    assert tenants.of(UNKNOWN, "alice") == Tenant(name="alice")
    assert tenants.of(UNKNOWN, "alice").salt("") == b"", "a name of its own choice protects nothing"


def test_a_certificate_is_one_tenant_whatever_it_says(tenants: Tenants) -> None:
    assert len({tenants.of(ALICE, f"tenant {number}") for number in range(100)}) == 1
    assert tenants.of(ALICE, "bob") != tenants.of(BOB, "bob")
    assert tenants.of(ALICE, "") != tenants.of(Caller(("alice", "bob")), "")


def test_a_gateway_speaks_for_tenants_of_its_own(tenants: Tenants) -> None:
    names = {tenants.of(GATEWAY, each).name for each in ("", "alice", "bob")}
    assert len(names) == 3
    assert names.isdisjoint({tenants.of(ALICE, "").name, tenants.of(UNKNOWN, "alice").name})


def test_only_the_same_tenant_with_the_same_salt_shares(tenants: Tenants) -> None:
    salts = {
        tenants.of(caller, declared).salt(chosen)
        for caller in (UNKNOWN, ALICE, BOB)
        for declared in ("", "carol")
        for chosen in ("", "one", "other")
    }
    assert len(salts) == 9, "three callers, three salts, and the declared tenant counts for nothing"
    assert not any(b"one" in salt or b"alice" in salt for salt in salts)


def test_certificates_need_not_separate() -> None:
    tenants = Tenants(gateways=[], separate=False)
    assert tenants.of(ALICE, "").salt("") == tenants.of(BOB, "").salt("") == b""
    assert tenants.of(ALICE, "").salt("s") == tenants.of(BOB, "").salt("s") != b""


def record(tenant: str, request_id: str) -> RequestRecord:
    return RequestRecord(request_id=request_id, tenant=tenant, model="stub", priority=0)


def test_one_id_is_one_request_of_each_tenant() -> None:
    records = RequestRecords(10)
    for tenant, tokens in (("alice", 1), ("bob", 2)):
        life = record(tenant, "r")
        life.measured(tokens, 1, "short")
        records.add(life)
    for tenant, tokens in (("alice", 1), ("bob", 2)):
        found = records.find(tenant, "stub", "r")
        assert found is not None
        assert found.prompt_tokens == tokens
    assert records.find("carol", "stub", "r") is None


def test_a_tenant_with_many_requests_forgets_its_own() -> None:
    records = RequestRecords(100)
    for number in range(50):
        records.add(record("alice", f"{number}"))
    for number in range(10_000):
        records.add(record("bob", f"{number}"))
    assert all(records.find("alice", "stub", f"{number}") for number in range(50))
    kept = [number for number in range(10_000) if records.find("bob", "stub", f"{number}")]
    assert kept == list(range(9_950, 10_000))


def test_a_tenant_that_comes_later_has_its_share() -> None:
    records = RequestRecords(100)
    for number in range(100):
        records.add(record("alice", f"{number}"))
    for number in range(40):
        records.add(record("bob", f"{number}"))
    assert sum(records.find("bob", "stub", f"{number}") is not None for number in range(40)) == 25
    assert (
        sum(records.find("alice", "stub", f"{number}") is not None for number in range(100)) == 75
    )
