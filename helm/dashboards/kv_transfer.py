"""KV on its way and at its place: transfers, blocks, what decode workers hold and give up."""

from dashboards.board import (
    Board,
    Buckets,
    Lines,
    Query,
    Section,
    of,
    per_second,
    quantiles,
    rate,
)

TRANSFERS = Section(
    title="Transfers",
    panels=(
        Lines(
            title="KV moved",
            description="Sent by prefill workers, received and committed by decode workers.",
            unit="Bps",
            queries=(
                Query(
                    expression=per_second("role", "lengthwise_kv_transfer_bytes_total"),
                    legend="{{role}}",
                ),
            ),
        ),
        Lines(
            title="KV transfer seconds",
            description="From a request's first piece to its commit, at decode workers.",
            unit="s",
            queries=quantiles("lengthwise_kv_transfer_seconds", role="decode"),
        ),
        Buckets(
            title="KV transfer seconds, distribution",
            description="The same of both sides.",
            unit="s",
            metric="lengthwise_kv_transfer_seconds",
        ),
        Lines(
            title="Failures by reason",
            description="Transfers that did not end in a commit.",
            unit="reqps",
            queries=(
                Query(
                    expression=per_second("role, reason", "lengthwise_kv_transfer_failures_total"),
                    legend="{{role}}: {{reason}}",
                ),
            ),
        ),
        Lines(
            title="Failed transfers",
            description="The part of the transfers that failed within 5 minutes.",
            unit="percentunit",
            queries=(
                Query(
                    expression=of(
                        "release_model_role:lengthwise_kv_transfer_failures:ratio_rate5m"
                    ),
                    legend="{{model}} {{role}}",
                ),
            ),
        ),
        Lines(
            title="KV sent per worker",
            description="By each prefill worker.",
            unit="Bps",
            queries=(
                Query(
                    expression=rate("lengthwise_kv_transfer_bytes_total", role="prefill"),
                    legend="{{pod}}",
                ),
            ),
        ),
    ),
)

BLOCKS = Section(
    title="KV blocks",
    panels=(
        Lines(
            title="KV blocks",
            description="Of all decode workers: used, the part of the free ones that holds"
            " prefixes, all, and the peak predicted of what is admitted.",
            unit="blocks",
            queries=(
                Query(
                    expression="sum by (state)"
                    f" ({of('lengthwise_kv_blocks', role='decode', state='used|cached')})",
                    legend="{{state}}",
                ),
                Query(
                    expression="sum("
                    f"{of('lengthwise_kv_blocks', role='decode', state='used|free')})",
                    legend="all",
                ),
                Query(
                    expression=f"sum({of('lengthwise_kv_blocks_predicted')})", legend="predicted"
                ),
            ),
        ),
        Lines(
            title="KV use",
            description="The part of the blocks that is used.",
            unit="percentunit",
            queries=(
                Query(
                    expression=of("release_model_role:lengthwise_kv_blocks_used:ratio"),
                    legend="{{model}} {{role}}",
                ),
                Query(
                    expression=of("release_model:lengthwise_kv_blocks_predicted:ratio"),
                    legend="{{model}} decode, predicted",
                ),
            ),
        ),
        Lines(
            title="KV use per worker",
            description="The part of each worker's blocks that is used.",
            unit="percentunit",
            queries=(
                Query(
                    expression="sum by (pod, role)"
                    f" ({of('lengthwise_kv_blocks', state='used')}) / sum by (pod, role)"
                    f" ({of('lengthwise_kv_blocks', state='used|free')})",
                    legend="{{pod}}",
                ),
            ),
        ),
        Lines(
            title="Preemptions",
            description="Requests that lost their blocks to more senior ones.",
            unit="reqps",
            queries=(
                Query(
                    expression=f"sum({rate('lengthwise_preemptions_total')})", legend="preemptions"
                ),
            ),
        ),
        Lines(
            title="Computed again",
            description="Tokens computed again after preemptions.",
            unit="tokens/s",
            queries=(
                Query(
                    expression=f"sum({rate('lengthwise_recomputed_tokens_total')})",
                    legend="tokens",
                ),
            ),
        ),
        Lines(
            title="Admissions at decode workers",
            description="Requests given KV blocks, by the rule that let them.",
            unit="reqps",
            queries=(
                Query(
                    expression=per_second("reason", "lengthwise_decode_admissions_total"),
                    legend="{{reason}}",
                ),
            ),
        ),
    ),
)

DECODING = Section(
    title="Decode workers",
    panels=(
        Lines(
            title="Running requests",
            description="In the batches of all workers of a role.",
            unit="short",
            queries=(
                Query(
                    expression=f"sum by (role) ({of('lengthwise_running_requests')})",
                    legend="{{role}}",
                ),
            ),
        ),
        Lines(
            title="Waiting for blocks",
            description="Requests at decode workers that wait for KV blocks.",
            unit="short",
            queries=(
                Query(
                    expression=f"sum({of('lengthwise_queued_requests', role='decode')})",
                    legend="requests",
                ),
            ),
        ),
        Lines(
            title="Context",
            description="Tokens whose KV the running requests read in each step.",
            unit="tokens",
            queries=(Query(expression=f"sum({of('lengthwise_context_tokens')})", legend="tokens"),),
        ),
    ),
)

BOARD = Board(
    name="kv-transfer",
    title="KV transfer",
    description="KV transfers, KV blocks and what decode workers run.",
    sections=(TRANSFERS, BLOCKS, DECODING),
)
