from lengthwise_wire.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReserveRequest(_message.Message):
    __slots__ = ("request_id", "router_id", "reservation", "epoch", "token_ids", "num_prompt_tokens", "sampling", "stop_token_ids", "max_tokens", "top_logprobs", "lease_seconds", "priority", "local", "conversation_returns", "cache_salt", "grammar", "adapter", "most_requests")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_RETURNS_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    MOST_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    router_id: str
    reservation: int
    epoch: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    num_prompt_tokens: int
    sampling: _common_pb2.SamplingParams
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    max_tokens: int
    top_logprobs: int
    lease_seconds: float
    priority: int
    local: bool
    conversation_returns: bool
    cache_salt: bytes
    grammar: str
    adapter: str
    most_requests: int
    def __init__(self, request_id: _Optional[str] = ..., router_id: _Optional[str] = ..., reservation: _Optional[int] = ..., epoch: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., num_prompt_tokens: _Optional[int] = ..., sampling: _Optional[_Union[_common_pb2.SamplingParams, _Mapping]] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., max_tokens: _Optional[int] = ..., top_logprobs: _Optional[int] = ..., lease_seconds: _Optional[float] = ..., priority: _Optional[int] = ..., local: _Optional[bool] = ..., conversation_returns: _Optional[bool] = ..., cache_salt: _Optional[bytes] = ..., grammar: _Optional[str] = ..., adapter: _Optional[str] = ..., most_requests: _Optional[int] = ...) -> None: ...

class ReserveResponse(_message.Message):
    __slots__ = ("num_cached_tokens", "reason", "requests")
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    num_cached_tokens: int
    reason: str
    requests: int
    def __init__(self, num_cached_tokens: _Optional[int] = ..., reason: _Optional[str] = ..., requests: _Optional[int] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("router_id", "reservations")
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    router_id: str
    reservations: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, router_id: _Optional[str] = ..., reservations: _Optional[_Iterable[int]] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TokensRequest(_message.Message):
    __slots__ = ("router_id", "interval_seconds")
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    router_id: str
    interval_seconds: float
    def __init__(self, router_id: _Optional[str] = ..., interval_seconds: _Optional[float] = ...) -> None: ...

class TokenBatch(_message.Message):
    __slots__ = ("reservations", "indices", "token_ids", "logprobs", "ended", "local_prefills", "preempted")
    RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    LOCAL_PREFILLS_FIELD_NUMBER: _ClassVar[int]
    PREEMPTED_FIELD_NUMBER: _ClassVar[int]
    reservations: _containers.RepeatedScalarFieldContainer[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[RowLogprobs]
    ended: _containers.RepeatedCompositeFieldContainer[Ended]
    local_prefills: _containers.RepeatedCompositeFieldContainer[LocalPrefill]
    preempted: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, reservations: _Optional[_Iterable[int]] = ..., indices: _Optional[_Iterable[int]] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[RowLogprobs, _Mapping]]] = ..., ended: _Optional[_Iterable[_Union[Ended, _Mapping]]] = ..., local_prefills: _Optional[_Iterable[_Union[LocalPrefill, _Mapping]]] = ..., preempted: _Optional[_Iterable[int]] = ...) -> None: ...

class LocalPrefill(_message.Message):
    __slots__ = ("reservation", "queue_seconds", "prefill_seconds", "num_cached_tokens", "reason")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    reservation: int
    queue_seconds: float
    prefill_seconds: float
    num_cached_tokens: int
    reason: str
    def __init__(self, reservation: _Optional[int] = ..., queue_seconds: _Optional[float] = ..., prefill_seconds: _Optional[float] = ..., num_cached_tokens: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class RowLogprobs(_message.Message):
    __slots__ = ("row", "logprobs")
    ROW_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    row: int
    logprobs: _common_pb2.TokenLogprobs
    def __init__(self, row: _Optional[int] = ..., logprobs: _Optional[_Union[_common_pb2.TokenLogprobs, _Mapping]] = ...) -> None: ...

class Ended(_message.Message):
    __slots__ = ("reservation", "finish_reason", "error", "refused")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    reservation: int
    finish_reason: _common_pb2.FinishReason
    error: str
    refused: bool
    def __init__(self, reservation: _Optional[int] = ..., finish_reason: _Optional[_Union[_common_pb2.FinishReason, str]] = ..., error: _Optional[str] = ..., refused: _Optional[bool] = ...) -> None: ...

class TransferFrame(_message.Message):
    __slots__ = ("hello", "announce", "commit")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    hello: TransferHello
    announce: Announce
    commit: Commit
    def __init__(self, hello: _Optional[_Union[TransferHello, _Mapping]] = ..., announce: _Optional[_Union[Announce, _Mapping]] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ...) -> None: ...

class TransferHello(_message.Message):
    __slots__ = ("worker_id", "model_fingerprint", "layout_fingerprint", "link")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    model_fingerprint: str
    layout_fingerprint: str
    link: str
    def __init__(self, worker_id: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., layout_fingerprint: _Optional[str] = ..., link: _Optional[str] = ...) -> None: ...

class Announce(_message.Message):
    __slots__ = ("sequence", "reservation", "epoch", "first_layer", "num_layers", "first_block", "num_blocks", "num_bytes", "router_id")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_LAYER_FIELD_NUMBER: _ClassVar[int]
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    FIRST_BLOCK_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    reservation: int
    epoch: int
    first_layer: int
    num_layers: int
    first_block: int
    num_blocks: int
    num_bytes: int
    router_id: str
    def __init__(self, sequence: _Optional[int] = ..., reservation: _Optional[int] = ..., epoch: _Optional[int] = ..., first_layer: _Optional[int] = ..., num_layers: _Optional[int] = ..., first_block: _Optional[int] = ..., num_blocks: _Optional[int] = ..., num_bytes: _Optional[int] = ..., router_id: _Optional[str] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("reservation", "epoch", "first_token_id", "checksum", "num_pieces", "num_bytes", "router_id")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    NUM_PIECES_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    reservation: int
    epoch: int
    first_token_id: int
    checksum: int
    num_pieces: int
    num_bytes: int
    router_id: str
    def __init__(self, reservation: _Optional[int] = ..., epoch: _Optional[int] = ..., first_token_id: _Optional[int] = ..., checksum: _Optional[int] = ..., num_pieces: _Optional[int] = ..., num_bytes: _Optional[int] = ..., router_id: _Optional[str] = ...) -> None: ...

class TransferReply(_message.Message):
    __slots__ = ("accepted", "committed")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    accepted: TransferAccepted
    committed: Committed
    def __init__(self, accepted: _Optional[_Union[TransferAccepted, _Mapping]] = ..., committed: _Optional[_Union[Committed, _Mapping]] = ...) -> None: ...

class TransferAccepted(_message.Message):
    __slots__ = ("rendezvous",)
    RENDEZVOUS_FIELD_NUMBER: _ClassVar[int]
    rendezvous: str
    def __init__(self, rendezvous: _Optional[str] = ...) -> None: ...

class Committed(_message.Message):
    __slots__ = ("reservation", "epoch", "error", "router_id")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    reservation: int
    epoch: int
    error: str
    router_id: str
    def __init__(self, reservation: _Optional[int] = ..., epoch: _Optional[int] = ..., error: _Optional[str] = ..., router_id: _Optional[str] = ...) -> None: ...
