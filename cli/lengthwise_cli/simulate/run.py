"""One simulated run, and what is shown of it."""

from lengthwise_cli.errors import CommandError
from lengthwise_cli.simulate.inputs import Inputs
from lengthwise_cli.simulate.output import RunOutput
from lengthwise_cli.terminal import say
from lengthwise_simulator.cluster.simulation import SimulatedRun, Simulation
from lengthwise_simulator.search.shape import DeploymentShape


def simulate_once(
    inputs: Inputs, counts: tuple[int, int, int, int], most: int, output: RunOutput
) -> SimulatedRun:
    """`counts`: prefill workers, GPUs of each, decode workers, GPUs of each."""
    prefill, prefill_gpus, decode, decode_gpus = counts
    model, policies = inputs.model_on_gpus(), inputs.policies()
    shape = DeploymentShape(
        prefill=prefill, prefill_ranks=prefill_gpus, decode=decode, decode_ranks=decode_gpus
    )
    cluster = model.cluster(shape, policies, inputs.seed)
    context = model.spec.context_length
    requests = inputs.requests(most)
    fitting = [each for each in requests if each.prompt_tokens + each.output_tokens <= context]
    if not fitting:
        raise CommandError(
            f"no request fits the context of the model: prompt and output together may have"
            f" {context:,} tokens"
        )
    if len(fitting) < len(requests):
        say(
            f"{len(requests) - len(fitting):,} of {len(requests):,} requests are left out: the"
            f" model's context has {context:,} tokens"
        )
    run = Simulation(cluster, fitting).run()
    output.write(run, f"{shape}, {cluster.gpus} {model.gpu_name} in all")
    return run
