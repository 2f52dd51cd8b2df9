"""What one tenant can find out about another: nothing, where a salt or a certificate keeps them
apart. The attack is real: without either, a guess that is right is cached."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from faults.locked import client, locked, make_parts
from harness.samples import samples_of

import lengthwise
from lengthwise_engine.toy.checkpoint import write_toy_checkpoint
from lengthwise_local import LocalCluster
from lengthwise_wire.v1 import common_pb2, inference_pb2, inference_pb2_grpc

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

SALT = "xLq2mV9s-what-the-victim-alone-knows"
PIN = 4711
GUESSES = (1234, 4710, PIN, 4712, 9999)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens are bytes."""
    return write_toy_checkpoint(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def cluster(toy: Path) -> Iterator[LocalCluster]:
    with LocalCluster(model=toy) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_parts(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def certified(toy: Path, keys: Path) -> Iterator[LocalCluster]:
    if not shutil.which("openssl"):
        pytest.skip("makes keys with openssl")
    with locked(toy, keys, gateways=["autoscaler.test", "bob.test"]) as cluster:
        yield cluster


def secret(account: str, pin: int) -> str:
    """The PIN is within the third block of 16 tokens."""
    return f"The card of {account:<20}has PIN {pin:04d}, keep it well and tell it to nobody."


def cached(caller: lengthwise.Client, prompt: str, **options: str) -> int:
    completion = caller.generate(prompt, max_tokens=2, temperature=0, ignore_eos=True, **options)  # type: ignore[arg-type]
    return completion.usage.cached_prompt_tokens


def comes_back(caller: lengthwise.Client, prompt: str, **options: str) -> bool:
    """Whether it is cached once it has been sent a few times: a router learns of blocks a moment
    after they were computed, and may have had it computed elsewhere until then."""
    return any(cached(caller, prompt, **options) > 48 for _ in range(10))


def found(attacker: lengthwise.Client, account: str, **options: str) -> list[int]:
    """The guesses that are cached further than the two blocks before the PIN, and than the first,
    which is wrong: whoever attacks again finds what it has asked before."""
    counts = {guess: cached(attacker, secret(account, guess), **options) for guess in GUESSES}
    return [guess for guess, count in counts.items() if count > max(32, counts[GUESSES[0]])]


def test_without_a_salt_the_pin_is_found(cluster: LocalCluster) -> None:
    """As is said of it; else the tests below would prove nothing."""
    with lengthwise.Client(cluster.endpoint) as caller:
        assert comes_back(caller, secret("open", PIN))
        assert found(caller, "open") == [PIN]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="no salt"),
        pytest.param({"cache_salt": "a guess"}, id="another salt"),
        pytest.param({"cache_salt": SALT.lower()}, id="a similar salt"),
        pytest.param({"tenant": "victim"}, id="the tenant's name"),
    ],
)
def test_with_a_salt_it_is_not(cluster: LocalCluster, options: dict[str, str]) -> None:
    account = str(sorted(options.items()))[-20:]
    with lengthwise.Client(cluster.endpoint) as caller:
        cached(caller, secret(account, PIN), cache_salt=SALT, tenant="victim")
        assert found(caller, account, **options) == []


def test_the_same_salt_shares_prompt_and_output(cluster: LocalCluster) -> None:
    prompt = "a conversation that goes on, and on, and on, and on, and on, and on. "
    with lengthwise.Client(cluster.endpoint) as caller:
        options = {"max_tokens": 40, "temperature": 0, "ignore_eos": True, "cache_salt": SALT}
        first = caller.generate(prompt, **options)  # type: ignore[arg-type]
        turn = [*caller.tokenize(prompt), *first.token_ids]
        again = [caller.generate(turn, **options) for _ in range(5)]  # type: ignore[arg-type]
        second = again[0]
        most = max(each.usage.cached_prompt_tokens for each in again)
        assert most >= len(turn) // 16 * 16 - 16
        other = caller.generate(turn, **{**options, "cache_salt": "other"})  # type: ignore[arg-type]
        assert other.usage.cached_prompt_tokens == 0
        assert other.token_ids == second.token_ids


def test_a_request_that_goes_on_elsewhere_keeps_its_salt(cluster: LocalCluster) -> None:
    """As a client sends it whose router was lost in the middle of the stream."""
    prompt = inference_pb2.Prompt(text="resumed " * 12)
    resume = inference_pb2.Resume(token_ids=[5, 6, 7])
    with grpc.insecure_channel(cluster.endpoint) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)

        def ask(salt: str | None) -> int:
            request = inference_pb2.GenerateRequest(
                prompt=prompt, resume=resume, max_tokens=20, cache_salt=salt,
                sampling=common_pb2.SamplingParams(seed=1), stop={"ignore_eos": True},
            )  # fmt: skip
            *_, last = stub.Generate(request, timeout=20)
            cached_tokens: int = last.usage.cached_prompt_tokens
            return cached_tokens

        assert ask("one") == 0
        assert any(ask("one") == 96 for _ in range(10)), "a router learns of blocks a moment later"
        assert [ask("two"), ask(None)] == [0, 0]


def test_the_salt_is_nowhere_to_be_read(cluster: LocalCluster) -> None:
    with lengthwise.Client(cluster.endpoint) as caller:
        completion = caller.generate("hello", max_tokens=4, cache_salt=SALT)
        assert SALT not in repr(caller.explain(completion.request_id))
        with pytest.raises(lengthwise.InvalidRequest) as refused:
            caller.generate("hello", max_tokens=4, cache_salt=SALT * 10)
        assert SALT not in str(refused.value)
    for process in cluster.processes:
        assert SALT not in process.log_path.read_text()
        assert SALT not in repr(samples_of(process.metrics_address))


@pytest.mark.parametrize("salt", ["", "s" * 257])
def test_a_salt_that_cannot_be_one_is_refused(cluster: LocalCluster, salt: str) -> None:
    request = inference_pb2.GenerateRequest(
        prompt=inference_pb2.Prompt(text="hi"), max_tokens=1, cache_salt=salt
    )
    with (
        grpc.insecure_channel(cluster.endpoint) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        list(inference_pb2_grpc.InferenceStub(channel).Generate(request, timeout=10))
    assert "cache_salt: got" in str(refused.value)
    assert "INVALID_ARGUMENT" in str(refused.value)


def test_a_certificate_keeps_tenants_apart(certified: LocalCluster, keys: Path) -> None:
    """Whatever a tenant declares, and with no salt of its own."""
    with client(certified, keys, "alice") as alice, client(certified, keys, "router") as other:
        assert comes_back(alice, secret("alice", PIN)), "its own is cached as before"
        assert found(other, "alice") == []
        assert found(other, "alice", tenant="alice") == []
        assert found(other, "alice", cache_salt="alice.test") == []


def test_tenants_of_a_gateway_are_kept_apart(certified: LocalCluster, keys: Path) -> None:
    with client(certified, keys, "bob") as gateway:
        assert comes_back(gateway, secret("gateway", PIN), tenant="one")
        assert found(gateway, "gateway", tenant="other") == []


def test_a_request_is_explained_to_its_own_tenant(certified: LocalCluster, keys: Path) -> None:
    with client(certified, keys, "alice") as alice, client(certified, keys, "router") as other:
        alice.generate("a prompt of alice", max_tokens=3, request_id="shared")
        other.generate("other", max_tokens=2, request_id="shared")
        assert alice.explain("shared").prompt_tokens == len("a prompt of alice")
        assert other.explain("shared").prompt_tokens == len("other")
        alice.generate("mine", max_tokens=2, request_id="mine")
        for tenant in (None, "alice", "alice.test"):
            with pytest.raises(lengthwise.RequestNotFound):
                other.explain("mine", tenant=tenant)


def test_a_declared_tenant_finds_its_own_explanations(cluster: LocalCluster) -> None:
    with lengthwise.Client(cluster.endpoint) as caller:
        caller.generate("four", max_tokens=2, request_id="same", tenant="a")
        caller.generate("fifteen", max_tokens=2, request_id="same", tenant="b")
        assert caller.explain("same", tenant="a").prompt_tokens == 4
        assert caller.explain("same", tenant="b").prompt_tokens == 7
        with pytest.raises(lengthwise.RequestNotFound):
            caller.explain("same")
