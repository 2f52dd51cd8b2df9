"""How a server takes calls and what each may cost: gRPC itself leaves both to its callers."""
