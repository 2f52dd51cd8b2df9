"""A router's objects are made and joined here, and nowhere else."""

import asyncio
import logging
import os
import random
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from lengthwise_checkpoint.errors import CheckpointError
from lengthwise_policy.admission.admission import Admission, AdmissionPolicy
from lengthwise_policy.placement.shared_prompt import SHARED_PROMPT
from lengthwise_policy.placement.strategies import make_strategy
from lengthwise_router.config import RouterConfig
from lengthwise_router.discovery.sources import discovery_of
from lengthwise_router.fleet_metrics import FleetMetrics
from lengthwise_router.frontends.grpc.servicer import grpc_server
from lengthwise_router.keys.keyring import Keyring
from lengthwise_router.keys.metrics import KeyMetrics
from lengthwise_router.metric_families import MetricFamilies
from lengthwise_router.metrics import RouterMetrics
from lengthwise_router.serving.admission_gate import AdmissionGate
from lengthwise_router.serving.dispatch import Dispatch
from lengthwise_router.serving.models.served_model import ServedModel
from lengthwise_router.serving.models.served_models import ServedModels
from lengthwise_router.serving.service import InferenceService
from lengthwise_router.text.checkpoint import Checkpoint, load_checkpoint
from lengthwise_router.text.sandbox.grammar_compiler import GrammarCompiler
from lengthwise_router.text.tokenization import PromptEncoder
from lengthwise_router.text.tools.answer_format import answer_format
from lengthwise_router.workers.fleet import Fleet
from lengthwise_router.workers.wakeup import Wakeups
from lengthwise_runtime.calls.places import Count
from lengthwise_runtime.config import Address, ConfigError
from lengthwise_runtime.metrics import count_refused_calls, serve_metrics
from lengthwise_runtime.tls.credentials import channel_credentials
from lengthwise_runtime.tracing.config import tracer_of
from lengthwise_wire.announcement import Announcement

if TYPE_CHECKING:  # its extra need not be installed
    from lengthwise_router.frontends.http.server import HttpServer

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
"""What a draining router allows for releasing its last reservations."""


class RouterApplication:
    """A router; see `runtime.process.Application`."""

    def __init__(self, config: RouterConfig) -> None:
        self._config = config
        self._router_id = f"router-{secrets.token_hex(6)}"  # unique for each start
        self._announcement: Path | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._http: HttpServer | None = None
        self.http_address = ""
        """host:port of HTTP; empty where it is not served."""

    async def start(self) -> None:
        if self._config.tls is not None:
            channel_credentials(self._config.tls)  # what workers will be shown is refused now
        registry = CollectorRegistry()
        await self._join(registry)
        self._run()
        await self._listen(registry)

    async def _join(self, registry: CollectorRegistry) -> None:
        config = self._config
        models = [config.of(served) for served in config.served]
        checkpoints = [await _checkpoint(model) for model in models]
        families = MetricFamilies(registry)
        metrics = FleetMetrics(
            families,
            num_unknown=lambda role, condition: self._fleet.num_unknown(role, condition),
            num_discovered=lambda: self._fleet.num_discovered,
        )
        self._tracer = tracer_of(config.tracing, "lengthwise-router", self._router_id)
        self._wakeups = Wakeups()
        self._fleet = Fleet(
            addresses=discovery_of(config.discovery, metrics.discovery_failed).addresses(),
            tls=config.tls,
            models=[checkpoint.name for checkpoint in checkpoints],
            router_id=self._router_id,
            message_interval_seconds=config.message_interval_seconds,
            heartbeat_timeout_seconds=config.heartbeat_timeout_seconds,
            step_stall_seconds=config.step_stall_seconds,
        )
        self._keyring = await _keyring(config, registry)
        self._models = ServedModels(
            self._served(checkpoint, model, families)
            for checkpoint, model in zip(checkpoints, models, strict=True)
        )
        for model in self._models:
            try:
                await model.encoder.start()
            except ConfigError as error:
                await self._close_encoders()
                raise ConfigError(f"model {model.name!r}: {error}") from error
        self._grammars = GrammarCompiler(max_waiting=config.max_requests_in_flight)
        self._service = InferenceService(
            models=self._models,
            fleet=self._fleet,
            wakeups=self._wakeups,
            metrics=metrics,
            grammars=self._grammars,
            config=config,
            tracer=self._tracer,
            keyring=self._keyring,
        )

    def _served(
        self, checkpoint: Checkpoint, config: RouterConfig, families: MetricFamilies
    ) -> ServedModel:
        """One model, by the configuration of a router for it alone."""
        encoder = PromptEncoder(
            checkpoint, threads=config.tokenizer_threads, max_waiting=config.max_requests_in_flight
        )
        admission = Admission(
            AdmissionPolicy(
                max_requests_in_flight=config.max_requests_in_flight,
                max_queued=config.max_queued,
                shed_factor=config.shed_factor,
                max_prompt_tokens=checkpoint.context_length,
            )
        )
        workers = self._fleet.models[checkpoint.name]
        strategy = make_strategy(config.strategy, config.placement, random.random)
        metrics = RouterMetrics(
            families,
            model=checkpoint.name,
            placement_rules=(*strategy.rules, SHARED_PROMPT),
            objectives=config.objectives,
            num_workers=workers.num_workers,
            num_waiting=lambda: admission.num_waiting,
        )
        dispatch = Dispatch(workers=workers, strategy=strategy, metrics=metrics, config=config)
        gate = AdmissionGate(
            admission=admission,
            metrics=metrics,
            objectives=config.objectives,
            preview=dispatch.preview if config.shed_factor else None,
        )
        return ServedModel(
            checkpoint=checkpoint,
            encoder=encoder,
            gate=gate,
            dispatch=dispatch,
            workers=workers,
            metrics=metrics,
            answers=answer_format(
                checkpoint.chat_template, config.tool_parser, config.reasoning_parser
            ),
        )

    async def _close_encoders(self) -> None:
        for model in self._models:
            await model.encoder.close()

    def _run(self) -> None:
        self._tasks = [
            asyncio.create_task(self._fleet.run(), name="fleet"),
            asyncio.create_task(self._grammars.run(), name="grammars"),
            *(
                [asyncio.create_task(self._keyring.run(), name="API keys")]
                if self._keyring is not None
                else []
            ),
            asyncio.create_task(self._wakeups.run(self._fleet.sweep), name="sweep"),
            *(
                asyncio.create_task(model.encoder.run(), name=f"chat templates of {model.name}")
                for model in self._models
            ),
        ]

    async def _listen(self, registry: CollectorRegistry) -> None:
        """Serves clients, health probes and scrapes; then announces the address."""
        config = self._config
        count = count_refused_calls(registry)
        self._server = grpc_server(self._service, config, count)
        self.address = await self._server.start()
        try:
            self._metrics_server = serve_metrics(
                config.metrics_listen, registry, self._server.liveness, config.metrics_tls
            )
            await self._listen_http(count)
        except ConfigError:
            # gRPC's server would complain of an event loop that has ended before it.
            await self._server.stop(grace_seconds=0.0)
            raise
        await self._server.set_serving(True)
        if config.announce_folder is not None:
            note = Announcement(
                address=str(self._reachable(self.address)),
                role="router",
                worker_id=self._router_id,
                pid=os.getpid(),
                metrics=self.metrics_address,
                http=self.http_address,
            )
            self._announcement = note.write(config.announce_folder)
        logger.info("router %s listens on %s", self._router_id, self.address)

    async def _listen_http(self, count: Count) -> None:
        config = self._config
        if not config.http.listen:
            return
        try:
            from lengthwise_router.frontends.http.routes import http_application
            from lengthwise_router.frontends.http.server import HttpServer
        except ImportError as error:
            raise ConfigError(
                f'http: {error}; install what it needs: pip install "lengthwise[http]"'
            ) from error
        app = http_application(self._service, config, self._server.liveness, count)
        server = HttpServer(app, config.http.listen, config.client_tls or config.tls)
        self.http_address = str(self._reachable(await server.start()))
        self._http = server
        self._tasks.append(asyncio.create_task(self._http.run(), name="HTTP"))
        logger.info("HTTP is served on %s", self.http_address)

    @property
    def metrics_address(self) -> str:
        """host:port of /metrics; empty where it is not served."""
        return str(self._metrics_server.address) if self._metrics_server is not None else ""

    async def failed(self) -> BaseException:
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        return task.exception() or RuntimeError(f"task {task.get_name()} ended")

    async def drain(self) -> None:
        """Refuses new requests, and lets those in flight finish for `drain_seconds`."""
        self._service.draining = True
        if self._announcement is not None:
            self._announcement.unlink(missing_ok=True)
        await self._server.set_serving(False)
        await self._service.idle(self._config.drain_seconds)
        await asyncio.gather(
            self._server.stop(grace_seconds=0.5),
            *([self._http.stop()] if self._http is not None else []),
        )
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._fleet.flush_releases()
        except TimeoutError:
            logger.warning("some reservations could not be released; their leases will expire")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._fleet.close()
        await self._close_encoders()
        await self._grammars.close()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)
            self._metrics_server = None

    def _reachable(self, address: Address) -> Address:
        """What is announced of an address that is listened on."""
        everywhere = address.host in ("0.0.0.0", "::")
        return Address(self._config.advertise_host if everywhere else address.host, address.port)


async def _keyring(config: RouterConfig, registry: CollectorRegistry) -> Keyring | None:
    """Errors: ConfigError."""
    if config.keys is None:
        return None
    addresses = [Address.parse(each) for each in (config.listen, config.http.listen) if each]
    open_to = [str(each) for each in addresses if not each.is_loopback]
    if open_to and (config.client_tls or config.tls) is None:
        logger.warning(
            "API keys without TLS at %s: whoever sees the traffic has the keys; set tls or"
            " client_tls, or have what ends TLS in front of it",
            " and ".join(open_to),
        )
    return await asyncio.to_thread(
        Keyring,
        config.keys.file,
        router_replicas=config.keys.router_replicas,
        metrics=KeyMetrics(registry),
    )


async def _checkpoint(config: RouterConfig) -> Checkpoint:
    """Errors: ConfigError."""
    try:
        return await asyncio.to_thread(load_checkpoint, config.model, config.served_name)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
