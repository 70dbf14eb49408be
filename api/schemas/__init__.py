"""What goes over the wire, in pydantic; the OpenAPI document is made of these."""
