"""Rounding to e4m3."""

import triton
import triton.language as tl

_INTERPRETED: tl.constexpr = tl.constexpr(triton.knobs.runtime.interpret)
_MAX: tl.constexpr = tl.constexpr(448.0)
_SMALLEST_PEAK: tl.constexpr = tl.constexpr(2.0**-100)


@triton.jit
def quantise(x, peak):
    """Float32 `x` and the largest |x|, a scalar: e4m3 numbers and their scale.

    The same as `reference.fp8.quantise_rows` of one row.
    """
    scale = tl.div_rn(tl.maximum(peak, _SMALLEST_PEAK), tl.full([], _MAX, tl.float32))
    scaled = x * tl.div_rn(tl.full([], 1.0, tl.float32), scale)
    if _INTERPRETED:
        scaled = _round(scaled)
    return scaled.to(tl.float8e4nv), scale


@triton.jit
def _round(x):
    """To the nearest e4m3, still float32.

    Triton 3.7's interpreter loses the carry into the exponent (127.9 becomes 64) and cuts the
    smallest numbers; what it need not round it converts well.
    """
    # Neighbours of numbers in [2^e, 2^(e+1)) are 2^(e-3) apart, below 2^-6 they are 2^-9 apart.
    # 1.5 * 2^(e+20) has float32 neighbours just as far apart, so adding it rounds.
    power = (x.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    shift = tl.maximum(power, 0.015625) * 1572864.0
    return (x + shift) - shift
