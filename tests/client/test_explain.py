"""A request is explained by whichever router served it."""

import time

import pytest
from client.callers import Caller
from client.scripted_router import Router, a_life

from lengthwise import (
    Client,
    Explanation,
    InvalidRequest,
    LengthwiseError,
    NoWorkerAvailable,
    RequestNotFound,
    Timeout,
)

NO_ROUTER = "127.0.0.1:1"


def explained(caller: Caller, *endpoints: str, request_id: str = "r1") -> Explanation:
    return caller.explain(list(endpoints), request_id)


def test_a_life_is_explained_whole(router: Router, caller: Caller) -> None:
    router.explanations["r1"] = a_life("r1")
    life = explained(caller, router.address)
    assert (life.request_id, life.model, life.length_class) == ("r1", "toy", "short")
    assert (life.prompt_tokens, life.output_tokens, life.max_tokens) == (100, 20, 64)
    assert (life.admission_reason, life.admission_seconds) == ("free: 1 of 8", 0.0015)
    (attempt,) = life.attempts
    assert [candidate.residual_tokens for candidate in attempt.candidates] == [4, 100]
    assert attempt.chosen == attempt.candidates[0]
    assert attempt.prefill_seconds == 0.0024
    assert life.end is not None
    assert life.end.code == "OK"
    assert life.end.timings.total_seconds == 0.1


def test_a_request_that_goes_on_has_no_end(router: Router, caller: Caller) -> None:
    router.explanations["r1"] = a_life("r1")
    router.explanations["r1"].ClearField("end")
    assert explained(caller, router.address).end is None


def test_every_router_is_asked(routers: tuple[Router, Router], caller: Caller) -> None:
    one, other = routers
    other.explanations["r1"] = a_life("r1")
    assert explained(caller, NO_ROUTER, one.address, other.address).request_id == "r1"


def test_a_request_that_no_router_knows_is_not_found(
    routers: tuple[Router, Router], caller: Caller
) -> None:
    one, other = routers
    with pytest.raises(RequestNotFound, match="request_id: got 'r1', expected another"):
        explained(caller, one.address, other.address)


def test_a_router_that_could_not_be_asked_may_have_known(router: Router, caller: Caller) -> None:
    with pytest.raises(NoWorkerAvailable, match=f"cannot reach {NO_ROUTER}"):
        explained(caller, NO_ROUTER, router.address)


def test_a_final_error_ends_the_search(routers: tuple[Router, Router], caller: Caller) -> None:
    one, other = routers
    one.unary_errors.append(InvalidRequest("request_id: not like this"))
    other.explanations["r1"] = a_life("r1")
    with pytest.raises(InvalidRequest, match="not like this"):
        explained(caller, one.address, other.address)


def test_a_silent_router_does_not_take_the_time_of_the_others(
    routers: tuple[Router, Router],
) -> None:
    one, other = routers
    one.explain_hangs = True
    other.explanations["r1"] = a_life("r1")
    began_at = time.monotonic()
    with Client([one.address, other.address], timeout=Timeout(silence=0.3)) as client:
        assert client.explain("r1").request_id == "r1"
    assert time.monotonic() - began_at < 8


@pytest.mark.parametrize("request_id", ["", "r" * 129, "\ud800"], ids=["none", "long", "surrogate"])
def test_an_id_that_cannot_be_one_is_refused(caller: Caller, request_id: str) -> None:
    with pytest.raises(LengthwiseError, match="request_id: got"):
        explained(caller, NO_ROUTER, request_id=request_id)
