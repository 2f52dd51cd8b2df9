from lengthwise_wire.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PrefillRequest(_message.Message):
    __slots__ = ("request_id", "epoch", "token_ids", "num_prompt_tokens", "sampling", "top_logprobs", "stop_token_ids", "destination", "priority", "conversation_returns", "cache_salt", "grammar", "most_tokens_ahead", "adapter")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_RETURNS_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    MOST_TOKENS_AHEAD_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    epoch: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    num_prompt_tokens: int
    sampling: _common_pb2.SamplingParams
    top_logprobs: int
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    destination: KVDestination
    priority: int
    conversation_returns: bool
    cache_salt: bytes
    grammar: str
    most_tokens_ahead: int
    adapter: str
    def __init__(self, request_id: _Optional[str] = ..., epoch: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., num_prompt_tokens: _Optional[int] = ..., sampling: _Optional[_Union[_common_pb2.SamplingParams, _Mapping]] = ..., top_logprobs: _Optional[int] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., destination: _Optional[_Union[KVDestination, _Mapping]] = ..., priority: _Optional[int] = ..., conversation_returns: _Optional[bool] = ..., cache_salt: _Optional[bytes] = ..., grammar: _Optional[str] = ..., most_tokens_ahead: _Optional[int] = ..., adapter: _Optional[str] = ...) -> None: ...

class KVDestination(_message.Message):
    __slots__ = ("address", "worker_id", "reservation", "router_id", "num_cached_tokens")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    address: str
    worker_id: str
    reservation: int
    router_id: str
    num_cached_tokens: int
    def __init__(self, address: _Optional[str] = ..., worker_id: _Optional[str] = ..., reservation: _Optional[int] = ..., router_id: _Optional[str] = ..., num_cached_tokens: _Optional[int] = ...) -> None: ...

class PrefillResponse(_message.Message):
    __slots__ = ("token_id", "logprobs", "finish_reason", "queue_seconds", "prefill_seconds", "num_cached_tokens", "length_class", "reason", "tokens_ahead")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_CLASS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TOKENS_AHEAD_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    logprobs: _common_pb2.TokenLogprobs
    finish_reason: _common_pb2.FinishReason
    queue_seconds: float
    prefill_seconds: float
    num_cached_tokens: int
    length_class: str
    reason: str
    tokens_ahead: int
    def __init__(self, token_id: _Optional[int] = ..., logprobs: _Optional[_Union[_common_pb2.TokenLogprobs, _Mapping]] = ..., finish_reason: _Optional[_Union[_common_pb2.FinishReason, str]] = ..., queue_seconds: _Optional[float] = ..., prefill_seconds: _Optional[float] = ..., num_cached_tokens: _Optional[int] = ..., length_class: _Optional[str] = ..., reason: _Optional[str] = ..., tokens_ahead: _Optional[int] = ...) -> None: ...
