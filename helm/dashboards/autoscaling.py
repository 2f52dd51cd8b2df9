"""What is wanted, what is there, and why: pools, demand, decisions."""

from dashboards.board import (
    Board,
    Lines,
    Query,
    Section,
    of,
    per_second,
    quantiles,
    rate,
)


def _of_pool(metric: str, legend: str) -> Query:
    # Every autoscaler reports its configuration, the leader what it wants.
    return Query(expression=f"max by (pool) ({of(metric)})", legend=f"{{{{pool}}}}: {legend}")


POOLS = Section(
    title="Pools",
    panels=(
        Lines(
            title="Replicas",
            description="Replicas of a pool's Deployment, and those that the last decision wants.",
            unit="short",
            queries=(
                _of_pool("lengthwise_replicas", "replicas"),
                _of_pool("lengthwise_replicas_wanted", "wanted"),
            ),
        ),
        Lines(
            title="Bounds",
            description="The replicas that a pool may have.",
            unit="short",
            queries=(
                _of_pool("lengthwise_pool_min_replicas", "at least"),
                _of_pool("lengthwise_pool_max_replicas", "at most"),
            ),
        ),
        Lines(
            title="Ready workers",
            description="As the router sees them that sees most.",
            unit="short",
            queries=(
                Query(
                    expression=f"max by (role) ({of('lengthwise_workers', state='ready')})",
                    legend="{{role}}",
                ),
            ),
        ),
    ),
)

DEMAND = Section(
    title="Demand",
    panels=(
        Lines(
            title="Workers needed",
            description="By the work there is, not rounded; by role and, where prompts of one"
            " length have pools of their own, length class.",
            unit="short",
            queries=(
                Query(
                    expression="max by (model, role, length_class)"
                    f" ({of('lengthwise_workers_needed')})",
                    legend="{{model}} {{role}} {{length_class}}",
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
            title="Tokens",
            description="That arrive to be computed, by length class, and that are generated.",
            unit="tokens/s",
            queries=(
                Query(
                    expression=per_second("length_class", "lengthwise_arrived_tokens_total"),
                    legend="arrive, {{length_class}}",
                ),
                Query(
                    expression=f"sum({rate('lengthwise_generated_tokens_total')})",
                    legend="generated",
                ),
            ),
        ),
    ),
)

DECISIONS = Section(
    title="Decisions",
    panels=(
        Lines(
            title="Actions",
            description="Pools scaled out and in, roles flipped, by the rule that wanted it; since"
            " the autoscaler's start.",
            unit="short",
            queries=(
                # Not increase(): it does not see the first of a kind, whose series is new.
                Query(
                    expression="sum by (pool, action, reason)"
                    f" ({of('lengthwise_scaling_actions_total')})",
                    legend="{{pool}} {{action}}: {{reason}}",
                ),
            ),
        ),
        Lines(
            title="Errors",
            description="What kept the autoscaler from deciding or acting, per second.",
            unit="short",
            queries=(
                Query(
                    expression=per_second("reason", "lengthwise_scaling_errors_total"),
                    legend="{{reason}}",
                ),
            ),
        ),
        Lines(
            title="Decision time",
            description="From the begin of a round to its decision.",
            unit="s",
            queries=quantiles("lengthwise_autoscaler_decision_seconds"),
        ),
        Lines(
            title="Leader",
            description="Which autoscaler acts, and whether it only reports what it would do.",
            unit="short",
            queries=(
                Query(expression=of("lengthwise_autoscaler_leader"), legend="{{pod}} leads"),
                Query(expression=f"max({of('lengthwise_autoscaler_dry_run')})", legend="dry run"),
            ),
        ),
        Lines(
            title="Age of the last decision",
            description="Of the autoscaler that leads. It decides every few seconds.",
            unit="s",
            queries=(
                Query(
                    expression="time() - max("
                    f"{of('lengthwise_autoscaler_last_decision_timestamp_seconds')})",
                    legend="age",
                ),
            ),
        ),
        Lines(
            title="Role flips",
            description="Workers of flexible pools that were asked to serve the other role; since"
            " the autoscaler's start.",
            unit="short",
            queries=(
                Query(
                    expression=f"sum({of('lengthwise_scaling_actions_total', action='flip')})"
                    " or vector(0)",
                    legend="flips",
                ),
            ),
        ),
    ),
)

BOARD = Board(
    name="autoscaling",
    title="Autoscaling",
    description="Pools, what their work needs, and what the autoscaler does about it.",
    sections=(POOLS, DEMAND, DECISIONS),
)
