"""What a document is and where it lies: records, schemas, storage, layout, shards. Imports nothing else of docmill."""
