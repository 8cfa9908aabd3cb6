"""Values that every part speaks: documents, schema, examples, records, errors, seeds."""
