"""What steps take: the cost model, and how a worker fits it to what it measured."""
