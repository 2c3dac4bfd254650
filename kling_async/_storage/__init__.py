"""Object stores: S3 and compatible ones, Google Cloud Storage, and Azure Blob Storage."""
