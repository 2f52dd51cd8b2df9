"""What one step of the prefill engine gave."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lengthwise_policy.length_class import LengthClass
from lengthwise_policy.prefill.batch import PrefillBatch
from lengthwise_prefill_worker.messages import Outcome
from lengthwise_worker.messages import StepReport


@dataclass(slots=True, kw_only=True)
class PrefillReport(StepReport[Outcome]):
    """One batch, or none."""

    batch: PrefillBatch | None = None
    tokens: Mapping[LengthClass, int] = field(default_factory=dict)
    """Of the batch, by their requests' length classes."""
