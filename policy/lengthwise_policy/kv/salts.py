"""What keeps apart the cached blocks of requests that must not share: the names of blocks begin
with a salt, and only equal names are shared.

Whether a prefix is cached shows in how long it takes and in `usage.cached_prompt_tokens`: callers
that share a cache can find out, guess by guess, what others have sent. With another salt they find
nothing but their own. The option is called as vLLM's.
"""

import json
from hashlib import blake2b

SALT_BYTES = 32
"""Of a request's salt on the wire. An empty one: shared among all requests without a salt."""


def request_salt(tenant: str, cache_salt: str) -> bytes:
    """The digest of an authenticated tenant and of what the caller chose; either may be empty, and
    both are: empty. Nothing of either can be read from it."""
    if not tenant and not cache_salt:
        return b""
    return blake2b(json.dumps([tenant, cache_salt]).encode(), digest_size=SALT_BYTES).digest()


def block_salt(model_fingerprint: str, salt: bytes, adapter: str = "") -> bytes:
    """What block names begin with, for a request of this salt. With an adapter, named by its key,
    the model is another one."""
    model = f"{model_fingerprint}:{adapter}" if adapter else model_fingerprint
    return b"\0".join([model.encode(), salt] if salt else [model.encode()])
