"""One model on several devices of one machine: a worker's ranks and how they compute together."""
