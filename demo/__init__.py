"""The demonstration: one real teacher, distilled by the real service, from one command."""
