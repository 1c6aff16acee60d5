"""API definitions, classic and OAS, and bundles: what the gateway is told about an API."""
