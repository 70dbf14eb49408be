"""The database's schema, step by step (Alembic). `mixkd-server migrate` runs them; core.schema finds them."""
