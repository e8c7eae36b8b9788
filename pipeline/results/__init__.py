"""Results that stages write and the report reads."""
