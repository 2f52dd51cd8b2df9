"""The toy model's definition, in plain integers: what lies in the cache and what comes of it.

Each token leaves NUM_CHANNELS small integers per layer for K and as many for V:

    value(layer, kv, channel, position, token) = ((2 c + 1) token + c position + c^2) mod 251
    with c = 1 + (2 layer + kv) NUM_CHANNELS + channel

and the next token is drawn from a hash of a sum over everything in the cache:

    sum = Σ_position,layer (1 + layer + num_layers position) Σ_kv,channel value (1 + 37 c mod 61)

Values differ between K and V and factors between all layers and positions, so a block that is
missing, stale or swapped changes the sum, and the hash turns that into another token 94 times out
of 95 at each token from there on. All sums stay far below 2^63; those per position below 2^24, so
float32 holds them exactly.
"""

from typing import Final

from lengthwise_checkpoint.toy import EOS_TOKEN_ID, HEAD_DIM, NUM_KV_HEADS, VOCAB_SIZE, ToySpec

NUM_CHANNELS: Final = NUM_KV_HEADS * HEAD_DIM
VALUE_MODULUS: Final = 251
WEIGHT_MODULUS: Final = 61

FIRST_OUTPUT_TOKEN: Final = ord(" ")
NUM_OUTPUT_TOKENS: Final = 95
"""The toy speaks printable ASCII."""

OTHER_LOGIT: Final = -100.0
"""The logit of every token the toy never says."""

_MASK = 2**64 - 1


def channel_number(layer: int, kv: int, channel: int) -> int:
    """`c` of the formulas: K and V of each channel of each layer have a number of their own."""
    return 1 + (2 * layer + kv) * NUM_CHANNELS + channel


def channel_weight(c: int) -> int:
    """The factor of channel number `c` in the sum."""
    return 1 + 37 * c % WEIGHT_MODULUS


def next_token_of_sum(total: int, spec: ToySpec) -> int:
    """The greedy token for the sum over the cache: splitmix64's finaliser, then a range."""
    mixed = (total + 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    mixed ^= mixed >> 31
    if spec.eos_one_in and (mixed >> 32) % spec.eos_one_in == 0:
        return EOS_TOKEN_ID
    return FIRST_OUTPUT_TOKEN + mixed % NUM_OUTPUT_TOKENS


def toy_logits(token: int) -> list[float]:
    """Logits whose best token is `token`, each next printable character one less likely by e."""
    logits = [OTHER_LOGIT] * VOCAB_SIZE
    for distance in range(1, NUM_OUTPUT_TOKENS):
        rank = (token - FIRST_OUTPUT_TOKEN + distance) % NUM_OUTPUT_TOKENS
        logits[FIRST_OUTPUT_TOKEN + rank] = -float(distance)
    logits[token] = 0.0
    return logits
