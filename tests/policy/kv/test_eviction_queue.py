"""EvictionQueue against a plain list, with far more releases than blocks."""

from random import Random

from lengthwise_policy.kv.eviction_queue import EvictionQueue

NUM_BLOCKS = 12


def test_blocks_go_in_the_order_of_their_release_however_often_they_were_used_between() -> None:
    random = Random(1)
    references = [0] * NUM_BLOCKS
    queue = EvictionQueue(references)
    resting: list[int] = []  # the first to go first
    number_of: dict[int, int] = {}
    releases = most_listed = 0
    for _ in range(3000):
        used = [block_id for block_id in range(NUM_BLOCKS) if block_id not in resting]
        action = random.random()
        if used and action < 0.5:
            released = random.sample(used, random.randint(1, min(4, len(used))))
            releases += len(released)
            resting += reversed(released)
            number_of |= {each: releases - place for place, each in enumerate(released)}
            queue.add(released, releases)
        elif resting and action < 0.97:
            taken = resting.pop(random.randrange(len(resting)))
            queue.leave(taken)
        elif action >= 0.97:
            most = random.randint(1, 5)
            assert queue.pop(most) == resting[:most]
            del resting[:most]
        assert list(queue) == resting
        assert len(queue) == len(resting)
        if resting:
            assert queue.oldest == number_of[resting[0]]
        most_listed = max(most_listed, queue._num_listed)
    assert 64 < most_listed <= 64 + 2 * NUM_BLOCKS + 4
