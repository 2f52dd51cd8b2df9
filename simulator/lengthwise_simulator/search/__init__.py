"""Which deployment to choose: many runs, compared by the rate that they stand."""
