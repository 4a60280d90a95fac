"""web/keys."""
