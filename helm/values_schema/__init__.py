"""The chart's values.schema.json, made from the types that the processes themselves read: what a
process would refuse when it starts, Helm refuses when it installs."""
