"""The arrays of a step on their way to a device."""

import numpy as np
import torch

from lengthwise_kernels.staging import places, refill


def test_arrays_of_all_types_arrive_whole() -> None:
    arrays = {
        "bools": np.array([[True, False, True]]),
        "floats": np.array([0.5, -2.0], dtype=np.float32),
        "longs": np.arange(3),
        "ints": np.arange(5, dtype=np.int32),
    }
    where = places(arrays)
    buffer = torch.zeros(256, dtype=torch.uint8)
    refill(arrays, where, buffer)
    for name, array in arrays.items():
        assert where[name].offset % 16 == 0
        assert torch.equal(where[name].of(buffer), torch.from_numpy(array))
