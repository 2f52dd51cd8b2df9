"""What attention kernels share: a run of keys seen by a tile of queries, and the merge of parts
that saw different keys.

    s = scale q k;  m' = max(m, max s);  l' = l e^(m - m') + sum e^(s - m');
    acc' = acc e^(m - m') + e^(s - m') v;  out = acc / l;  lse = m + log l

m, l and acc are float32. Rows that have seen nothing have m = -inf and never give a NaN.
(Milakov and Gimelshein 2018, arXiv:1805.02867; Dao 2023, arXiv:2307.08691, for dividing once.)

Keys and values come from the paged cache through a block table, by address: Hopper's bulk copies
take boxes of one page, and a page is 16 tokens, a quarter of a tile or less.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _load(at, inside_keys, inside_head, MASK_KEYS: tl.constexpr, MASK_HEAD: tl.constexpr):
    """Keys or values [TILE, BLOCK_D]; zero where they are masked.

    Beyond the last key lies what a former owner left: maybe NaN, which no weight of zero would
    silence.
    """
    if MASK_KEYS:
        tile = tl.load(at, mask=inside_keys[:, None] & inside_head[None, :], other=0.0)
    elif MASK_HEAD:
        tile = tl.load(at, mask=inside_head[None, :], other=0.0)
    else:
        tile = tl.load(at)
    return tile


@triton.jit
def attend(
    q, acc, peak, mass, keys_ptr, table_ptr, begin, end, first_seen, last_seen, scale,
    MASKED: tl.constexpr, PAGE: tl.constexpr, TOKEN_STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Let `q` [rows, BLOCK_D] see the keys [begin, end) of a sequence, TILE at a time.

    `keys_ptr` is where this head's keys of block 0 begin, `table_ptr` the sequence's blocks. With
    MASKED a row sees the keys [first_seen, last_seen] of them, both [rows]; without, all, and their
    number is a multiple of TILE. `peak` is the running maximum of q k before it is scaled: then the
    scale costs nothing, as part of the multiply-add that feeds each power of 2.
    """
    scale *= LOG2_E
    dim = tl.arange(0, BLOCK_D)
    for tile in tl.range(begin, end, TILE):
        key = tile + tl.arange(0, TILE)
        block = tl.load(table_ptr + key // PAGE, mask=key < end, other=0).to(tl.int64)
        # A block has PAGE keys, then as many values.
        token = (block * 2 * PAGE + key % PAGE) * TOKEN_STRIDE
        at = keys_ptr + token[:, None] + dim[None, :]
        k = _load(at, key < end, dim < HEAD_DIM, MASKED, HEAD_DIM != BLOCK_D)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if MASKED:
            seen = (key[None, :] >= first_seen[:, None]) & (key[None, :] <= last_seen[:, None])
            scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher) if MASKED else higher
        weights = tl.exp2(scores * scale - (shift * scale)[:, None])
        rescale = tl.exp2((peak - shift) * scale)
        mass = mass * rescale + tl.sum(weights, 1)
        v = _load(at + PAGE * TOKEN_STRIDE, key < end, dim < HEAD_DIM, MASKED, HEAD_DIM != BLOCK_D)
        acc = acc * rescale[:, None]
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")
        peak = higher
    return acc, peak, mass


@triton.jit
def finish(acc, peak, mass, scale):
    """The result of attention and its log-sum-exp; zero and -inf for rows that saw nothing."""
    mass = tl.where(mass == 0.0, 1.0, mass)
    return acc / mass[:, None], peak * scale + tl.log(mass)


@triton.jit
def merge(
    parts_ptr, lses_ptr, first, stride, nudge, count, row,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Attention over all keys from `count` parts that saw some of them each.

    Part i is in slot `first` + i `stride`, the first of them `nudge` slots further; a slot holds
    ROWS results of BLOCK_D numbers and as many log-sum-exps, of which `row` is wanted. Returns the
    result [BLOCK_D] and its log-sum-exp: sum_i out_i e^(lse_i - m) / sum_i e^(lse_i - m).
    """
    dim = tl.arange(0, BLOCK_D)
    peak = tl.full([], float("-inf"), tl.float32)
    mass = tl.zeros([], tl.float32)
    acc = tl.zeros([BLOCK_D], tl.float32)
    for chunk in range(0, count, CHUNK):
        part = chunk + tl.arange(0, CHUNK)
        at = (first + part * stride + tl.where(part == 0, nudge, 0)).to(tl.int64) * ROWS + row
        lse = tl.load(lses_ptr + at, mask=part < count, other=float("-inf"))
        out = tl.load(
            parts_ptr + at[:, None] * BLOCK_D + dim[None, :],
            mask=(part < count)[:, None] & (dim < BLOCK_D)[None, :],
            other=0.0,
        )
        higher = tl.maximum(peak, tl.max(lse, 0))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp(lse - shift)
        rescale = tl.exp(peak - shift)
        acc = acc * rescale + tl.sum(weights[:, None] * out, 0)
        mass = mass * rescale + tl.sum(weights, 0)
        peak = higher
    mass = tl.where(mass == 0.0, 1.0, mass)
    return acc / mass, peak + tl.log(mass)
