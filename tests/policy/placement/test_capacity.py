"""What no worker could ever hold is told from what has to wait: here workers hold 1,600 tokens, and
the smaller ones 800."""

from collections.abc import Sequence

import pytest
from policy.placement.views import decode, prefill, request

from lengthwise_policy.placement.capacity import exceeded_capacity, most_new_tokens
from lengthwise_policy.placement.placement import PlacementRequest
from lengthwise_policy.placement.worker_view import WorkerView

SMALL = {"blocks_total": 50, "blocks_free": 50}
OLD = {"capabilities": frozenset[str]()}
NEEDS = frozenset({"min_tokens"})
ANY = frozenset[str]()
NEW = {"capabilities": NEEDS}


def why(
    asked: PlacementRequest,
    prefill: Sequence[WorkerView],
    decode: Sequence[WorkerView],
    local_prefill: bool = True,
) -> str | None:
    return exceeded_capacity(asked, prefill, decode, local_prefill=local_prefill)


@pytest.mark.parametrize(
    ("tokens", "decoders", "fits"),
    [
        pytest.param((700, 101), [decode("d", **SMALL)], True, id="to the last slot"),
        pytest.param((700, 102), [decode("d", **SMALL)], False, id="one more"),
        pytest.param((700, 102), [decode("d", **SMALL), decode("e")], True, id="a larger one"),
        pytest.param((700, 102), [decode("d", blocks_free=0)], True, id="a full one"),
        pytest.param(
            (700, 102),
            [decode("d", **SMALL), decode("e", draining=True)],
            False,
            id="a larger one that drains",
        ),
        pytest.param((700, 102), [], True, id="none yet"),
    ],
)
def test_prompt_and_output_have_to_fit_some_decode_worker(
    tokens: tuple[int, int], decoders: Sequence[WorkerView], fits: bool
) -> None:
    asked = request(num_tokens=tokens[0], max_new_tokens=tokens[1])
    told = why(asked, [prefill("p")], decoders)
    assert (told is None) == fits
    if told is not None:
        assert "801 tokens" in told
        assert "holds 800 tokens of KV (50 blocks of 16)" in told


@pytest.mark.parametrize(
    ("prefills", "decoders", "local", "fits"),
    [
        pytest.param([prefill("p", **SMALL)], [decode("d")], True, True, id="locally"),
        pytest.param([prefill("p", **SMALL)], [decode("d")], False, False, id="not locally"),
        pytest.param([prefill("p", **SMALL)], [], True, True, id="decode workers may come"),
        pytest.param([], [decode("d")], False, True, id="prefill workers may come"),
        pytest.param([], [], True, True, id="workers may come"),
        pytest.param([prefill("p", **SMALL), prefill("q")], [], False, True, id="a larger one"),
    ],
)
def test_a_prompt_has_to_fit_some_worker_that_computes_it(
    prefills: Sequence[WorkerView], decoders: Sequence[WorkerView], local: bool, fits: bool
) -> None:
    told = why(request(num_tokens=900), prefills, decoders, local)
    assert (told is None) == fits


def test_one_token_needs_no_decode_worker() -> None:
    asked = request(num_tokens=900, max_new_tokens=1)
    assert why(asked, [prefill("p")], [decode("d", **SMALL)]) is None
    assert why(asked, [prefill("p", **SMALL)], [decode("d", **SMALL)]) is not None
    assert why(asked, [prefill("p", draining=True)], [decode("d", **SMALL)]) is None
    told = why(asked, [], [decode("d", **SMALL)])
    assert told is not None
    assert "900 tokens of prompt; the largest decode worker holds 800" in told
    assert why(asked, [], [decode("d", **SMALL), decode("e")]) is None
    assert why(asked, [], [decode("d", **SMALL)], False) is None


def test_a_larger_worker_that_is_too_old_for_the_request_is_no_hope() -> None:
    new = {"capabilities": NEEDS}
    decoders = [decode("d", **SMALL, **new), decode("e", **OLD)]
    asked = request(num_tokens=900, needs=NEEDS)
    assert why(asked, [prefill("p", **new)], decoders) is not None


@pytest.mark.parametrize(
    ("num_tokens", "needs", "decoders", "most"),
    [
        pytest.param(700, ANY, [decode("d", **SMALL), decode("e")], 901, id="larger"),
        pytest.param(
            700, ANY, [decode("d", **SMALL), decode("e", draining=True)], 101, id="draining"
        ),
        pytest.param(700, NEEDS, [decode("d", **SMALL, **NEW), decode("e", **OLD)], 101, id="old"),
        pytest.param(800, ANY, [decode("d", **SMALL)], 1, id="full with the prompt"),
        pytest.param(900, ANY, [decode("d", **SMALL)], 1, id="full before"),
        pytest.param(700, ANY, [decode("d", context_length=1000)], 300, id="context"),
        pytest.param(700, ANY, [], None, id="none yet"),
    ],
)
def test_what_the_largest_decode_worker_can_add_is_known_while_there_is_one(
    num_tokens: int, needs: frozenset[str], decoders: Sequence[WorkerView], most: int | None
) -> None:
    assert most_new_tokens(num_tokens, needs, decoders) == most


def test_a_worker_serves_its_context_even_where_it_has_more_memory() -> None:
    decoders = [decode("d", context_length=1000)]
    assert why(request(num_tokens=700, max_new_tokens=300), [prefill("p")], decoders) is None
    told = why(request(num_tokens=700, max_new_tokens=301), [prefill("p")], decoders)
    assert told is not None
    assert "takes requests of 1000 tokens in all" in told
    larger = [*decoders, decode("e")]
    assert why(request(num_tokens=700, max_new_tokens=301), [prefill("p")], larger) is None
