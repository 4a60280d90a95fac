"""web/rpc."""
