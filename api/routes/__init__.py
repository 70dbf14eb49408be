"""One module a resource; each declares a `router` whose paths start below `/v1`."""
