"""API servers behind this one: whose group-versions an APIService hands to a Service."""
