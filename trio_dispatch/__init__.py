"""A structured-concurrency client for Dispatch, for trio."""
