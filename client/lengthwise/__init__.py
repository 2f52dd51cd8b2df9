"""The SDK: clients, the values that they take and return, and the errors that they raise.

Importing it needs grpcio and protobuf alone.
"""

from importlib import metadata as _metadata

from lengthwise.aio import AsyncClient
from lengthwise.client import Client
from lengthwise.conversation import Message, Prompt, ToolCall, ToolCallDelta
from lengthwise.errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    LengthwiseError,
    LimitExceeded,
    ModelNotFound,
    NotSupported,
    NoWorkerAvailable,
    Overloaded,
    PermissionDenied,
    PromptTooLong,
    RequestNotFound,
    Stale,
    TransferFailed,
    Unauthenticated,
)
from lengthwise.explanation import ExplainedAttempt, ExplainedCandidate, ExplainedEnd, Explanation
from lengthwise.settings import Retry, Timeout, Tls
from lengthwise.status import LatencyHistogram, ModelStatus, RouterStatus, WorkerQueue, WorkerState
from lengthwise.transport import AsyncTransport, Transport
from lengthwise.types import (
    Chunk,
    Completion,
    FinishReason,
    Logprob,
    Model,
    Options,
    Sampling,
    Timings,
    Token,
    TokenLogprobs,
    Usage,
)

__all__ = [
    "AsyncClient",
    "AsyncTransport",
    "Cancelled",
    "Chunk",
    "Client",
    "Completion",
    "DeadlineExceeded",
    "ExplainedAttempt",
    "ExplainedCandidate",
    "ExplainedEnd",
    "Explanation",
    "FinishReason",
    "InternalError",
    "InvalidRequest",
    "LatencyHistogram",
    "LengthwiseError",
    "LimitExceeded",
    "Logprob",
    "Message",
    "Model",
    "ModelNotFound",
    "ModelStatus",
    "NoWorkerAvailable",
    "NotSupported",
    "Options",
    "Overloaded",
    "PermissionDenied",
    "Prompt",
    "PromptTooLong",
    "RequestNotFound",
    "Retry",
    "RouterStatus",
    "Sampling",
    "Stale",
    "Timeout",
    "Timings",
    "Tls",
    "Token",
    "TokenLogprobs",
    "ToolCall",
    "ToolCallDelta",
    "TransferFailed",
    "Transport",
    "Unauthenticated",
    "Usage",
    "WorkerQueue",
    "WorkerState",
]

try:
    __version__ = _metadata.version("lengthwise")
except _metadata.PackageNotFoundError:
    # On the path, but not installed.
    __version__ = "0+source"
