"""Helpers of the integration tests: a real router, services beside it, and waiting without sleeping."""
