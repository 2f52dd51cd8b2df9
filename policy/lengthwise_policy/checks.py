"""One wording for a number out of range: the field, what was got and what is accepted."""


def require_at_least(field: str, got: float, least: float) -> None:
    """Raises ValueError unless `got >= least` (NaN is refused too)."""
    if not got >= least:
        raise ValueError(f"{field}: expected at least {least}, got {got}")


def require_at_most(field: str, got: float, most: float) -> None:
    """Raises ValueError unless `got <= most` (NaN is refused too)."""
    if not got <= most:
        raise ValueError(f"{field}: expected at most {most}, got {got}")
