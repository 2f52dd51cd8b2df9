from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_PREFILL: _ClassVar[Role]
    ROLE_DECODE: _ClassVar[Role]
ROLE_UNSPECIFIED: Role
ROLE_PREFILL: Role
ROLE_DECODE: Role

class WatchRequest(_message.Message):
    __slots__ = ("router_id", "interval_seconds")
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    router_id: str
    interval_seconds: float
    def __init__(self, router_id: _Optional[str] = ..., interval_seconds: _Optional[float] = ...) -> None: ...

class SetRoleRequest(_message.Message):
    __slots__ = ("role",)
    ROLE_FIELD_NUMBER: _ClassVar[int]
    role: Role
    def __init__(self, role: _Optional[_Union[Role, str]] = ...) -> None: ...

class SetRoleResponse(_message.Message):
    __slots__ = ("previous",)
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    previous: Role
    def __init__(self, previous: _Optional[_Union[Role, str]] = ...) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("worker_id", "role", "model", "model_fingerprint", "layout_fingerprint", "context_length", "block_size", "blocks_total", "blocks_free", "running_requests", "queues", "step", "draining", "output_tokens_total", "prompt_tokens_total", "vocab_size", "cost", "short_tokens", "kv_bytes_per_second", "kv_bytes_per_token", "block_events", "blocks_cached", "blocks_predicted", "context_tokens", "flexible", "length_class", "capabilities", "transfer_down", "routers")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FREE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    SHORT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    BLOCK_EVENTS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_CACHED_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_PREDICTED_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FLEXIBLE_FIELD_NUMBER: _ClassVar[int]
    LENGTH_CLASS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_DOWN_FIELD_NUMBER: _ClassVar[int]
    ROUTERS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    role: Role
    model: str
    model_fingerprint: str
    layout_fingerprint: str
    context_length: int
    block_size: int
    blocks_total: int
    blocks_free: int
    running_requests: int
    queues: _containers.RepeatedCompositeFieldContainer[QueueStatus]
    step: int
    draining: bool
    output_tokens_total: int
    prompt_tokens_total: int
    vocab_size: int
    cost: CostModel
    short_tokens: int
    kv_bytes_per_second: float
    kv_bytes_per_token: int
    block_events: BlockEvents
    blocks_cached: int
    blocks_predicted: int
    context_tokens: int
    flexible: bool
    length_class: str
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    transfer_down: bool
    routers: int
    def __init__(self, worker_id: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ..., model: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., layout_fingerprint: _Optional[str] = ..., context_length: _Optional[int] = ..., block_size: _Optional[int] = ..., blocks_total: _Optional[int] = ..., blocks_free: _Optional[int] = ..., running_requests: _Optional[int] = ..., queues: _Optional[_Iterable[_Union[QueueStatus, _Mapping]]] = ..., step: _Optional[int] = ..., draining: _Optional[bool] = ..., output_tokens_total: _Optional[int] = ..., prompt_tokens_total: _Optional[int] = ..., vocab_size: _Optional[int] = ..., cost: _Optional[_Union[CostModel, _Mapping]] = ..., short_tokens: _Optional[int] = ..., kv_bytes_per_second: _Optional[float] = ..., kv_bytes_per_token: _Optional[int] = ..., block_events: _Optional[_Union[BlockEvents, _Mapping]] = ..., blocks_cached: _Optional[int] = ..., blocks_predicted: _Optional[int] = ..., context_tokens: _Optional[int] = ..., flexible: _Optional[bool] = ..., length_class: _Optional[str] = ..., capabilities: _Optional[_Iterable[str]] = ..., transfer_down: _Optional[bool] = ..., routers: _Optional[int] = ...) -> None: ...

class CostModel(_message.Message):
    __slots__ = ("step_seconds", "token_seconds", "attention_seconds", "history_seconds", "decode_request_seconds", "decode_context_seconds", "samples")
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DECODE_REQUEST_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DECODE_CONTEXT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    step_seconds: float
    token_seconds: float
    attention_seconds: float
    history_seconds: float
    decode_request_seconds: float
    decode_context_seconds: float
    samples: int
    def __init__(self, step_seconds: _Optional[float] = ..., token_seconds: _Optional[float] = ..., attention_seconds: _Optional[float] = ..., history_seconds: _Optional[float] = ..., decode_request_seconds: _Optional[float] = ..., decode_context_seconds: _Optional[float] = ..., samples: _Optional[int] = ...) -> None: ...

class BlockEvents(_message.Message):
    __slots__ = ("reset", "added", "removed")
    RESET_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    reset: bool
    added: _containers.RepeatedScalarFieldContainer[int]
    removed: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, reset: _Optional[bool] = ..., added: _Optional[_Iterable[int]] = ..., removed: _Optional[_Iterable[int]] = ...) -> None: ...

class QueueStatus(_message.Message):
    __slots__ = ("length_class", "requests", "tokens")
    LENGTH_CLASS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    length_class: str
    requests: int
    tokens: int
    def __init__(self, length_class: _Optional[str] = ..., requests: _Optional[int] = ..., tokens: _Optional[int] = ...) -> None: ...
