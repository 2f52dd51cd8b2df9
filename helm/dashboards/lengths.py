"""How long are prompts and answers, what of a prompt has to be computed, and what waits?"""

from dashboards.board import (
    Board,
    Buckets,
    Lines,
    Query,
    Section,
    of,
    per_second,
    quantile,
    rate,
)

CLASS = "{{length_class}}"


def _percentile(metric: str) -> tuple[Query, ...]:
    return (Query(expression=quantile(0.9, "length_class", metric), legend=CLASS),)


DISTRIBUTIONS = Section(
    title="Distributions",
    panels=(
        Buckets(
            title="Prompt tokens",
            description="Of admitted requests.",
            unit="tokens",
            metric="lengthwise_prompt_tokens",
        ),
        Buckets(
            title="Residual tokens",
            description="Prompt tokens that prefill workers had to compute; others were cached.",
            unit="tokens",
            metric="lengthwise_residual_tokens",
        ),
        Buckets(
            title="Output tokens",
            description="Of requests that ended well.",
            unit="tokens",
            metric="lengthwise_output_tokens",
        ),
    ),
)

DEMAND = Section(
    title="Demand",
    panels=(
        Lines(
            title="Requests that arrive",
            description="Before admission, by the length class of what no worker has cached.",
            unit="reqps",
            stacked=True,
            queries=(
                Query(
                    expression=per_second("length_class", "lengthwise_arrived_requests_total"),
                    legend=CLASS,
                ),
            ),
        ),
        Lines(
            title="Tokens that arrive",
            description="Prompt tokens that no worker has cached, before admission.",
            unit="tokens/s",
            stacked=True,
            queries=(
                Query(
                    expression=per_second("length_class", "lengthwise_arrived_tokens_total"),
                    legend=CLASS,
                ),
            ),
        ),
        Lines(
            title="Tokens computed",
            description="By prefill workers. Below what arrives for long, a queue grows.",
            unit="tokens/s",
            stacked=True,
            queries=(
                Query(
                    expression=per_second("length_class", "lengthwise_prefill_tokens_total"),
                    legend=CLASS,
                ),
            ),
        ),
        Lines(
            title="Residual ratio",
            description="The part of the prompts' tokens that had to be computed.",
            unit="percentunit",
            queries=(
                Query(
                    expression=f"sum({rate('lengthwise_residual_ratio_sum')})"
                    f" / sum({rate('lengthwise_residual_ratio_count')})",
                    legend="mean of the requests",
                ),
            ),
        ),
        Lines(
            title="Boundary",
            description="Residual tokens up to which a prompt is short, as each prefill worker"
            " has fitted it.",
            unit="tokens",
            queries=(
                Query(expression=of("lengthwise_short_tokens", role="prefill"), legend="{{pod}}"),
            ),
        ),
        Lines(
            title="Placement",
            description="Requests placed on workers, by the rule that chose.",
            unit="reqps",
            stacked=True,
            queries=(
                Query(
                    expression=per_second("reason", "lengthwise_placements_total"),
                    legend="{{reason}}",
                ),
            ),
        ),
    ),
)

PREFILL = Section(
    title="Prefill workers",
    panels=(
        Lines(
            title="TTFT, 90th percentile",
            description="From a request's arrival at the router to its first token leaving it.",
            unit="s",
            queries=_percentile("lengthwise_time_to_first_token_seconds"),
        ),
        Lines(
            title="Queue time, 90th percentile",
            description="From a request's arrival at a prefill worker to its first chunk.",
            unit="s",
            queries=_percentile("lengthwise_queue_seconds"),
        ),
        Lines(
            title="Prefill time, 90th percentile",
            description="From a request's first chunk to its first token.",
            unit="s",
            queries=_percentile("lengthwise_prefill_seconds"),
        ),
        Lines(
            title="Tokens queued",
            description="Residual tokens still to be computed at prefill workers.",
            unit="tokens",
            stacked=True,
            queries=(
                Query(
                    expression="sum by (length_class)"
                    f" ({of('lengthwise_queued_tokens', role='prefill')})",
                    legend=CLASS,
                ),
            ),
        ),
        Lines(
            title="Busy workers",
            description="Prefill workers' time inside steps: 1 is one worker that never rests.",
            unit="short",
            stacked=True,
            queries=(
                Query(
                    expression=per_second("length_class", "lengthwise_prefill_busy_seconds_total"),
                    legend=CLASS,
                ),
            ),
        ),
        Lines(
            title="Seconds per token",
            description="What a token of each class costs a prefill worker.",
            unit="s",
            queries=(
                Query(
                    expression=per_second("length_class", "lengthwise_prefill_busy_seconds_total")
                    + " / "
                    + per_second("length_class", "lengthwise_prefill_tokens_total"),
                    legend=CLASS,
                ),
            ),
        ),
        Lines(
            title="Batches",
            description="By length class and the rule that chose them.",
            unit="short",
            queries=(
                Query(
                    expression="topk(8, "
                    + per_second("length_class, reason", "lengthwise_prefill_batches_total")
                    + ")",
                    legend="{{length_class}}: {{reason}}",
                ),
            ),
        ),
        Lines(
            title="Local prefill",
            description="Prompt tokens that decode workers computed themselves.",
            unit="tokens/s",
            queries=(
                Query(
                    expression=f"sum({rate('lengthwise_local_prefill_tokens_total')})",
                    legend="tokens",
                ),
            ),
        ),
        Lines(
            title="Cached tokens",
            description="Prompt tokens whose KV workers had.",
            unit="tokens/s",
            queries=(
                Query(
                    expression=per_second("role", "lengthwise_prefix_cached_tokens_total"),
                    legend="{{role}}",
                ),
            ),
        ),
    ),
)

BOARD = Board(
    name="lengths",
    title="Lengths",
    description="Lengths of prompts and answers, demand by length class, and what it costs.",
    sections=(DISTRIBUTIONS, DEMAND, PREFILL),
)
