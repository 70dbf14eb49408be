"""The HTTP face: routes, schemas, and the translation of errors into problem documents."""
