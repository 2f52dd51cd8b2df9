"""Is the release well? Requests, objectives, latency, workers."""

from dashboards.board import (
    Board,
    Lines,
    Number,
    Query,
    Section,
    of,
    per_second,
    quantile,
    quantiles,
    rate,
)

NOW = Section(
    title="Now",
    panels=(
        Number(
            title="Requests",
            description="Ended, however they did.",
            unit="reqps",
            expression=f"sum({of('release_model:lengthwise_requests:rate5m')})",
        ),
        Number(
            title="Available",
            description="Of the requests of the last hour, the part that did not fail through our"
            " fault; of the worst model.",
            unit="percentunit",
            expression="1 - max("
            + of("release_model_slo:lengthwise_slo_errors:ratio_rate1h", slo="availability")
            + ")",
        ),
        Number(
            title="Good",
            description="Of the requests that ended well, the part that met its objectives of TTFT"
            " and TPOT.",
            unit="percentunit",
            expression=f"sum({of('release_model:lengthwise_goodput:rate5m')})"
            f" / sum({of('release_model:lengthwise_requests:rate5m')})",
        ),
        Number(
            title="TTFT of short prompts",
            description="The 90th percentile.",
            unit="s",
            expression=quantile(
                0.9, "", "lengthwise_time_to_first_token_seconds", length_class="short"
            ),
        ),
        Number(
            title="TTFT of long prompts",
            description="The 90th percentile.",
            unit="s",
            expression=quantile(
                0.9, "", "lengthwise_time_to_first_token_seconds", length_class="long"
            ),
        ),
        Number(
            title="KV blocks used",
            description="At the decode workers; of the model that uses most.",
            unit="percentunit",
            expression="max("
            + of("release_model_role:lengthwise_kv_blocks_used:ratio", role="decode")
            + ")",
        ),
    ),
)

REQUESTS = Section(
    title="Requests",
    panels=(
        Lines(
            title="Requests by code",
            description="Requests ended, by gRPC status. CANCELLED and INVALID_ARGUMENT are the"
            " clients' doing.",
            unit="reqps",
            stacked=True,
            queries=(
                Query(
                    expression=f"{per_second('code', 'lengthwise_requests_total')} > 0",
                    legend="{{code}}",
                ),
            ),
        ),
        Lines(
            title="Objectives missed",
            description="The part of the requests of the last hour that missed an objective"
            " (docs/alerts.md).",
            unit="percentunit",
            queries=(
                Query(
                    expression=of("release_model_slo:lengthwise_slo_errors:ratio_rate1h"),
                    legend="{{model}} {{slo}}",
                ),
            ),
        ),
        Lines(
            title="Goodput",
            description="Requests that ended well and met their objectives of TTFT and TPOT, of all"
            " that ended.",
            unit="reqps",
            queries=(
                Query(
                    expression=of("release_model:lengthwise_goodput:rate5m"),
                    legend="{{model}} within objectives",
                ),
                Query(
                    expression=of("release_model:lengthwise_requests:rate5m"),
                    legend="{{model}} all",
                ),
            ),
        ),
        Lines(
            title="Requests waiting",
            description="In routers: those in flight, and those that wait for admission.",
            unit="short",
            queries=(
                Query(expression=f"sum({of('lengthwise_requests_in_flight')})", legend="in flight"),
                Query(expression=f"sum({of('lengthwise_requests_waiting')})", legend="waiting"),
            ),
        ),
        Lines(
            title="Admission wait",
            description="From a tokenised request's wish for admission to the admission.",
            unit="s",
            queries=quantiles("lengthwise_admission_seconds"),
        ),
        Lines(
            title="Refusals",
            description="Requests that admission refused, by the rule that did.",
            unit="reqps",
            queries=(
                Query(
                    expression=per_second("reason", "lengthwise_refusals_total"),
                    legend="{{reason}}",
                ),
            ),
        ),
    ),
)

LATENCY = Section(
    title="Latency",
    panels=(
        *(
            Lines(
                title=f"TTFT, {name} prompts",
                description="From a request's arrival at the router to its first token leaving it.",
                unit="s",
                queries=quantiles("lengthwise_time_to_first_token_seconds", length_class=name),
            )
            for name in ("short", "long")
        ),
        Lines(
            title="TPOT",
            description="(last token - first token) / (output tokens - 1), by length class.",
            unit="s",
            queries=quantiles("lengthwise_time_per_output_token_seconds", "length_class"),
        ),
        Lines(
            title="Inter-token latency",
            description="Between two messages with tokens, by the tokens in the later one.",
            unit="s",
            queries=quantiles("lengthwise_inter_token_latency_seconds"),
        ),
        Lines(
            title="Retries",
            description="Attempts that failed and were hidden by another: all, and the most"
            " frequent kinds.",
            unit="reqps",
            queries=(
                Query(expression=f"sum({rate('lengthwise_retries_total')})", legend="all"),
                Query(
                    expression="topk(5, "
                    + per_second("phase, reason", "lengthwise_retries_total")
                    + ")",
                    legend="{{phase}}: {{reason}}",
                ),
            ),
        ),
        Lines(
            title="Tokens",
            description="Prompt tokens computed, prompt tokens found in caches, tokens generated.",
            unit="tokens/s",
            queries=(
                Query(
                    expression=f"sum({rate('lengthwise_prefill_tokens_total')})",
                    legend="computed by prefill workers",
                ),
                Query(
                    expression=f"sum({rate('lengthwise_local_prefill_tokens_total')})",
                    legend="computed by decode workers",
                ),
                Query(
                    expression=f"sum({rate('lengthwise_cached_prompt_tokens_total')})",
                    legend="cached",
                ),
                Query(
                    expression=f"sum({rate('lengthwise_generated_tokens_total')})",
                    legend="generated",
                ),
            ),
        ),
    ),
)

WORKERS = Section(
    title="Workers",
    panels=(
        Lines(
            title="Workers by state",
            description="As the router sees them that sees most.",
            unit="short",
            queries=(
                Query(
                    expression=f"max by (role, state) ({of('lengthwise_workers')}) > 0",
                    legend="{{role}}: {{state}}",
                ),
            ),
        ),
        Lines(
            title="Discovery",
            description="Workers' addresses that discovery proposes, and failures to ask for them.",
            unit="short",
            queries=(
                Query(expression=f"max({of('lengthwise_discovered_workers')})", legend="addresses"),
                Query(
                    expression=per_second("reason", "lengthwise_discovery_errors_total"),
                    legend="failures per second: {{reason}}",
                ),
            ),
        ),
        Lines(
            title="Busy",
            description="The part of the time that workers spend inside steps, per pool.",
            unit="percentunit",
            queries=(
                Query(
                    expression=f"avg by (pool, role) ({rate('lengthwise_busy_seconds_total')})",
                    legend="{{pool}} as {{role}}",
                ),
            ),
        ),
        Lines(
            title="CPU",
            description="Used by each process.",
            unit="cores",
            queries=(Query(expression=rate("process_cpu_seconds_total"), legend="{{pod}}"),),
        ),
        Lines(
            title="Memory",
            description="Resident, of each process.",
            unit="bytes",
            queries=(Query(expression=of("process_resident_memory_bytes"), legend="{{pod}}"),),
        ),
        Lines(
            title="Step gap",
            description="Time between two steps that the model did not use.",
            unit="s",
            queries=quantiles("lengthwise_step_gap_seconds", "role"),
        ),
    ),
)

BOARD = Board(
    name="overview",
    title="Overview",
    description="Requests, objectives, latency and workers of one release.",
    sections=(NOW, REQUESTS, LATENCY, WORKERS),
)
