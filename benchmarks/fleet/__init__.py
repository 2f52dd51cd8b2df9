"""A router beside hundreds of workers: what their statuses cost it, and where it places on them."""
