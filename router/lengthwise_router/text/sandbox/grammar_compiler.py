"""Constraints of requests → grammars that workers can follow."""

import asyncio
from collections import OrderedDict

from lengthwise_router.text.sandbox.process import AFTER_REASONING, ALONE
from lengthwise_router.text.sandbox.sandbox import Sandbox
from lengthwise_wire.v1 import common_pb2

MAX_KEPT = 64
"""Grammars. Callers send the same few again and again; the largest have half a megabyte."""


class GrammarCompiler:
    """Compiles, and remembers. Life: construct, `run` for ever; `close`."""

    def __init__(self, max_waiting: int) -> None:
        self._sandbox = Sandbox(
            "lengthwise_router.text.sandbox.grammar_process",
            b"",
            field="constraint",
            program="the grammar compiler",
            max_waiting=max_waiting,
        )
        self._compiled: OrderedDict[bytes, str] = OrderedDict()

    async def run(self) -> None:
        """Until cancelled."""
        await self._sandbox.run()

    def compiled(
        self, constraint: common_pb2.Constraint, *, after_reasoning: bool = False
    ) -> "str | asyncio.Future[str]":
        """The grammar, or a future of it. `after_reasoning`: of any text up to `</think>` and what
        the constraint allows after it.

        Errors, the future's too: InvalidRequest, Overloaded.
        """
        what = AFTER_REASONING if after_reasoning else ALONE
        key = what + constraint.SerializeToString(deterministic=True)
        grammar = self._compiled.get(key)
        if grammar is not None:
            self._compiled.move_to_end(key)
            return grammar
        answer = self._sandbox.ask(key)
        answer.add_done_callback(lambda done: self._keep(key, done))
        return answer

    async def close(self) -> None:
        await self._sandbox.close()

    def _keep(self, key: bytes, answer: "asyncio.Future[str]") -> None:
        if answer.cancelled() or answer.exception() is not None:
            return
        self._compiled[key] = answer.result()
        if len(self._compiled) > MAX_KEPT:
            self._compiled.popitem(last=False)
